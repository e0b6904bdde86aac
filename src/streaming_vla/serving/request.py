"""A client's message as an observation of the policy: every value is looked at before the policy sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.images.fit import fit
from streaming_vla.policies.contract import Matrix, PolicySpec
from streaming_vla.policies.remote.keys import DELAY_KEY, EPISODE_KEY, PLANNED_KEY, Key, Keys
from streaming_vla.policies.remote.wire import WireError, unpack

MOST_PICTURE_BYTES = 1920 * 1080 * 3
MOST_REST_BYTES = 1 << 18  # of a message: state, text, actions ahead, names
MOST_TEXT = 4096  # characters of an instruction
MOST_SIDE = 8192  # pixels
OWN_KEYS = (EPISODE_KEY, PLANNED_KEY, DELAY_KEY)


@dataclass(frozen=True)
class Request:
    """What a client asks for: a chunk of actions for what its robot sees.

    Args:
        pictures: [cameras, S, S, 3], RGB, in the policy's order.
        state: [state_size].
        episode: number that the client gives its episode; None: it tells none.
        planned: [n, A], the action that began with the pictures and those planned behind it; None: not told.
        delay: of `planned`, actions that are expected to be executed before the chunk takes over.
    """

    pictures: npt.NDArray[np.uint8]
    state: npt.NDArray[np.float32]
    instruction: str
    episode: int | None = None
    planned: Matrix | None = None
    delay: int = 0


class Requests:
    """Reads the requests to one policy.

    A picture of another size than the policy's is fitted as the spec says.

    Args:
        spec: of the policy.
        keys: of the messages, see Keys.check.
    """

    def __init__(self, spec: PolicySpec, keys: Keys) -> None:
        self._spec, self._keys = spec, keys
        paths = [_path(key) for key in keys.images.values()]
        self._maps = {path[:depth] for path in paths for depth in range(1, len(path))}
        self._images = ["/".join(path) for path in paths]
        self._needed = [*self._images, *keys.state, keys.instruction]
        self.most_bytes = len(spec.cameras) * MOST_PICTURE_BYTES + MOST_REST_BYTES
        self._known = {*self._needed, *OWN_KEYS}

    def read(self, message: bytes | str) -> Request:
        """Return the request of a message.

        Raises:
            WireError: no message of openpi, a key that is missing or unknown, or a value of another kind or size.
        """
        if isinstance(message, str):
            raise WireError("a text came, expected a binary message (msgpack)")
        found = unpack(message, self.most_bytes)
        if not isinstance(found, Mapping):
            raise WireError(f"the request is a {type(found).__name__}, expected a map with {_listed(self._needed)}")
        found = dict(_flat(found, self._maps))
        missing = [key for key in self._needed if key not in found]
        unknown = [str(key)[:80] for key in found if key not in self._known]
        if missing or unknown:
            lacks = f"has no {_listed(missing)}" if missing else ""
            strange = f"has {_listed(unknown[:8])}, which policy {self._spec.name} does not know" if unknown else ""
            raise WireError(
                f"the request {' and '.join(part for part in (lacks, strange) if part)}: expected "
                f"{_listed(self._needed)}"
            )
        spec, keys = self._spec, self._keys
        pictures = [_picture(found[key], key, spec, keys.channels_first) for key in self._images]
        return Request(
            np.stack(pictures),
            np.concatenate([_numbers(found[key], key, (count,)) for key, count in keys.state.items()], dtype="f4"),
            _text(found[keys.instruction], keys.instruction),
            _whole(found[EPISODE_KEY], EPISODE_KEY) if EPISODE_KEY in found else None,
            _planned(found[PLANNED_KEY], spec) if PLANNED_KEY in found else None,
            _whole(found[DELAY_KEY], DELAY_KEY) if DELAY_KEY in found else 0,
        )


def _path(key: Key) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _flat(found: Mapping[Any, Any], maps: set[tuple[str, ...]], above: tuple[str, ...] = ()) -> Iterator[Any]:
    """Return keys and values of a message; those of the maps that hold pictures with the map's name in front."""
    for key, value in found.items():
        here = (*above, str(key))
        if here in maps and isinstance(value, Mapping):
            yield from _flat(value, maps, here)
        else:
            yield "/".join(here), value


def _picture(value: Any, key: str, spec: PolicySpec, channels_first: bool) -> npt.NDArray[np.uint8]:
    if channels_first and isinstance(value, np.ndarray) and value.ndim == 3:
        value = value.transpose(1, 2, 0)
    if not isinstance(value, np.ndarray):
        raise WireError(f"{key} is a {type(value).__name__}, expected a picture [height, width, 3] of uint8")
    good = value.ndim == 3 and value.shape[2] == 3 and value.dtype == np.uint8
    if not good or not 0 < min(value.shape[:2]) <= max(value.shape[:2]) <= MOST_SIDE:
        raise WireError(
            f"{key} has shape {value.shape} of {value.dtype}, expected a picture [height, width, 3] of uint8, at most "
            f"{MOST_SIDE} pixels high and wide"
        )
    return fit(value, spec.image_size, spec.image_fit, spec.pad_value)


def _numbers(value: Any, key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if not isinstance(value, np.ndarray | list | float | int):
        raise WireError(f"{key} is a {type(value).__name__}, expected numbers of shape {shape}")
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise WireError(f"{key} is no array of numbers, expected shape {shape}") from error
    if numbers.shape != shape:
        raise WireError(f"{key} has shape {numbers.shape}, expected {shape}")
    if not np.isfinite(numbers).all():
        raise WireError(f"{key} is not finite")
    return numbers


def _planned(value: Any, spec: PolicySpec) -> Matrix | None:
    rows = len(value) if isinstance(value, np.ndarray) and value.ndim else 0
    planned = _numbers(value, PLANNED_KEY, (rows, spec.layout.size))
    return planned if rows else None


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise WireError(f"{key} is a {type(value).__name__}, expected text")
    if len(value) > MOST_TEXT:
        raise WireError(f"{key} has {len(value)} characters, at most {MOST_TEXT} are taken")
    return value


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**63:
        raise WireError(f"{key} is {str(value)[:40]}, expected a whole number of 0 or more")
    return int(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
