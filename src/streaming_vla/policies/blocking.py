"""Makes a chunk policy of a plain function that blocks while it works; it keeps nobody else waiting."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kv_cache.cache import CacheView
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
        self._thread = _CallThread(f"policy {spec.name}")

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Call the function, and leave its chunk.

        Raises:
            PolicyTimeout: it has not returned in time.
        """
        busy_s = self._thread.busy_s()
        if busy_s > self._timeout_s:
            raise PolicyTimeout(f"its function has been in one call for {busy_s:.1f} s, {self._allowed}")
        images = dict(zip(self.spec.cameras, observation.images, strict=True))
        chunk = self._thread.call(lambda: self._function(images, observation.state, observation.instruction))
        timer = threading.Timer(self._timeout_s, self._give_up, [chunk])
        timer.daemon = True
        timer.start()
        try:
            yield chunk
        finally:
            timer.cancel()
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

    def _give_up(self, chunk: Future[Any]) -> None:
        _settle(chunk.set_exception, PolicyTimeout(f"its function has not returned in time, {self._allowed}"))


class _CallThread:
    """Calls functions one by one; it may be stuck in one for ever, without keeping the process from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._since_s: float | None = None  # of the call in work

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Let a function be called; return its result to come."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        result: Future[Any] = Future()
        self._calls.put((function, result))
        return result

    def busy_s(self) -> float:
        """Return how long the call in work has lasted, seconds; 0: there is none."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def _loop(self) -> None:
        while True:
            function, result = self._calls.get()
            if result.done():  # given up while it waited
                continue
            self._since_s = time.monotonic()
            try:
                found = function()
            except Exception as error:
                _settle(result.set_exception, error)
            except BaseException as error:  # an exit would end whoever asks for the result
                _settle(result.set_exception, RuntimeError(f"it ended with {error!r}"))
            else:
                _settle(result.set_result, found)
            self._since_s = None


def _settle(settle: Callable[[Any], None], outcome: object) -> None:
    """Complete a future that may be complete already."""
    try:
        settle(outcome)
    except InvalidStateError:
        return
