"""From a question to the values of a message by the keys, and from the values of an answer to a chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.errors import listed, shortened
from streaming_vla.policies.guide import Matrix
from streaming_vla.policies.remote.keys import Key, Keys
from streaming_vla.policies.remote.messages import WireError


def pictures(images: npt.NDArray[np.uint8], keys: Keys) -> Iterator[tuple[Key, npt.NDArray[np.uint8]]]:
    """Yield the key and the picture of each camera, [S, S, 3] or [3, S, S]."""
    for key, picture in zip(keys.images.values(), images, strict=True):
        yield key, np.moveaxis(picture, -1, 0) if keys.channels_first else picture


def parts(state: npt.NDArray[np.float32], counts: Mapping[str, int]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Yield each key and its numbers of the state."""
    begin = 0
    for key, count in counts.items():
        yield key, state[begin : begin + count]
        begin += count


def chunk_of(found: object, keys: Keys, spec: PolicySpec) -> Matrix:
    """Return the chunk [H, A] of an answer.

    Args:
        found: map with an array [H, numbers] under each key of the actions.

    Raises:
        WireError: an array is missing, not of numbers, of another shape, or not finite.
    """
    if not isinstance(found, dict):
        raise WireError(f"its answer is a {type(found).__name__}, expected a map")
    columns = []
    for key, count in keys.actions.items():
        value = found.get(key)
        if not isinstance(value, np.ndarray):
            held = "nothing" if value is None else f"a {type(value).__name__}"
            raise WireError(f"its answer has {held} under '{key}', expected an array (its keys: {_names(found)})")
        expected = (spec.trained_horizon, count)
        if value.dtype.kind not in "fiu" or value.shape != expected:
            raise WireError(
                f"its '{key}' has shape {value.shape} and type {value.dtype.str}, expected numbers of shape "
                f"{expected}: trained_horizon and numbers of the policy's description"
            )
        if not np.isfinite(value).all():
            raise WireError(f"its '{key}' is not finite in row {np.flatnonzero(~np.isfinite(value).all(axis=1))[0]}")
        columns.append(value.astype(np.float64))
    return np.concatenate(columns, axis=1)


def timing_of(told: object) -> dict[str, float]:
    """Return the numbers of a server's timing, in milliseconds as it tells them; what is none is left out."""
    if not isinstance(told, Mapping):
        return {}
    numbers = {name: value for name, value in told.items() if isinstance(name, str) and _is_number(value)}
    return {shortened(name): float(value) for name, value in list(numbers.items())[:8]}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _names(found: Mapping[Any, Any]) -> str:
    return listed(str(name) for name in found) or "none"
