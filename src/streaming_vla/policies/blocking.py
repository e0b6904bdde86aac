"""Makes a chunk policy of a plain function that blocks while it works; it keeps nobody else waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kv_cache.cache import CacheView
from streaming_vla.policies.call_thread import CallThread
from streaming_vla.policies.contract import PolicyObservation, PolicySpec, PolicyTimeout, Prefilled, Slices
from streaming_vla.policies.guide import Guide, Matrix

Images = Mapping[str, npt.NDArray[np.uint8]]
Function = Callable[[Images, npt.NDArray[np.float32], str], npt.ArrayLike]
"""Pictures by camera, each [S, S, 3] RGB; state [state_size]; instruction. Returns a chunk [H, A] in action units."""


class BlockingPolicy:
    """A function behind the contract of a chunk policy. It has no history: it sees one observation at a time.

    The function is called on one thread of its own, one call at a time, whatever the number of robots.

    Args:
        function: from an observation to a chunk.
        spec: what the function is fed and what it gives; `cache` and `tokens_per_observation` stay as they are.
        timeout_s: a chunk that is not there so long after its observation was begun is given up, seconds; of several
            robots each waits for the calls of the others too.

    Raises:
        ValueError: the function cannot be called, or the timeout is not above 0.
    """

    def __init__(self, function: Function, spec: PolicySpec, timeout_s: float = 5.0) -> None:
        if not callable(function):
            raise ValueError(f"policy {spec.name}: a {type(function).__name__} is given, expected a function")
        if not 0.0 < timeout_s < float("inf"):
            raise ValueError(f"policy {spec.name}: timeout_s is {timeout_s}, expected seconds above 0")
        self.spec = spec
        self._function, self._timeout_s = function, timeout_s
        self._thread = CallThread(f"policy {spec.name}")

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Call the function, and leave its chunk.

        Raises:
            PolicyTimeout: it has not returned in time.
        """
        busy_s = self._thread.busy_s()
        if busy_s > self._timeout_s:
            raise PolicyTimeout(f"its function has been in one call for {busy_s:.1f} s, {self._allowed}")
        images = dict(zip(self.spec.cameras, observation.images, strict=True))
        chunk = self._thread.call(
            lambda: self._function(images, observation.state, observation.instruction),
            self._timeout_s,
            PolicyTimeout(f"its function has not returned in time, {self._allowed}"),
        )
        try:
            yield chunk
        finally:
            chunk.cancel()  # nobody waits for it any more, so it need not be begun
        cache = self.spec.cache
        empty = torch.zeros(cache.layers, cache.kv_heads, 1, cache.head_dim, dtype=cache.dtype)
        return Prefilled(empty, empty, context=chunk.result())

    def denoise(
        self, view: CacheView, context: Any, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Matrix]:
        """Return the chunk that the function gave: it knows no guide."""
        yield from ()
        rows: Matrix = context
        return rows

    @property
    def _allowed(self) -> str:
        return f"{self._timeout_s:g} s are allowed: make it return or raise its timeout_s"
