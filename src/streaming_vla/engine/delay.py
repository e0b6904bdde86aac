"""Holds answers back until they are as late as a latency profile says, so that this machine behaves like another.

Answers are held, nothing is blocked: other work goes on meanwhile. What takes longer than the profile says is not
made faster; such answers are counted.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.engine.values import ContextReport, FlowResult, Refusal, SaliencyResult

LOGGER = logging.getLogger(__name__)
Result = TypeVar("Result")


class Delay:
    """One thread that hands over answers when their time has come.

    Args:
        profile: latencies.
        clock: seconds, monotonic, the same as the engine's.
        seed: of the draws.
    """

    def __init__(self, profile: LatencyProfile, clock: Callable[[], float], seed: int = 0) -> None:
        self.profile = profile
        self._clock = clock
        self._random = np.random.default_rng(seed)
        self._changed = threading.Condition()
        self._held: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closed = False
        self._late = self._failed = 0
        self._thread = threading.Thread(target=self._loop, name="latency profile", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Hand over at once what is held, and end the thread. May be called again, but not from an answer."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._hand_over(float("inf"))

    def late(self) -> int:
        """Return how many answers took longer here than the profile says. From any thread."""
        with self._changed:
            return self._late

    def failed(self) -> int:
        """Return how many answers raised an error when they were handed over. From any thread."""
        with self._changed:
            return self._failed

    def draw_s(self, stage: str) -> tuple[float, float]:
        """Return model time and network time, there and back, of one piece of work of `stage`, seconds."""
        spread = {"observe": self.profile.observe, "flow_step": self.profile.flow_step}.get(stage)
        with self._changed:
            model_s = spread.draw_s(self._random) if spread is not None else 0.0
            return model_s, self.profile.transport_s(self._random) + self.profile.transport_s(self._random)

    def hold(self, due_s: float, done: Callable[[Result], None], result: Result) -> None:
        """Call `done` with `result` at `due_s` on this clock; at once when that is over or the delay is closed."""
        with self._changed:
            self._late += int(due_s < self._clock())
            if not self._closed:
                heapq.heappush(self._held, (due_s, next(self._order), lambda: done(result)))
                self._changed.notify()
                return
        done(result)

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                wait_s = self._held[0][0] - self._clock() if self._held else None
                if wait_s is None or wait_s > 0.0:
                    self._changed.wait(wait_s)
            self._hand_over(self._clock())

    def _hand_over(self, now: float) -> None:
        while True:
            with self._changed:
                if not self._held or self._held[0][0] > now:
                    return
                answer = heapq.heappop(self._held)[2]
            try:
                answer()
            except Exception:  # of whoever waited: the others get their answers all the same
                LOGGER.exception("whoever waited for an answer that was held back raised an error")
                with self._changed:
                    self._failed += 1


def held(delay: Delay, stage: str, since_s: float, done: Callable[[Result], None]) -> Callable[[Result], None]:
    """Return what to call in the place of `done`: it is called as late as the profile says, counted from `since_s`.

    The times that an answer reports become those of the profile; a refusal goes out at once.

    Args:
        stage: observe, flow_step (a plan takes as long) or saliency (which costs the network only).
        since_s: when the request came, seconds on the engine's clock.
    """
    model_s, network_s = delay.draw_s(stage)

    def hold(result: Result) -> None:
        if isinstance(result, Refusal) or not getattr(result, "accepted", True):
            done(result)
            return
        if model_s + network_s == 0.0:  # the profile has no time for it: it is never late
            done(result)
            return
        delay.hold(since_s + model_s + network_s, done, _as_profiled(result, delay.profile, model_s, network_s))

    return hold


def held_answer(
    delay: Delay, since_s: float, done: Callable[[SaliencyResult], None]
) -> Callable[[SaliencyResult], None]:
    """Return what to call in the place of `done` with the answer to a question, which takes longer with a plan."""
    plain, planned = (held(delay, stage, since_s, done) for stage in ("saliency", "flow_step"))
    return lambda result: (planned if result.planned else plain)(result)


def _as_profiled(result: Result, profile: LatencyProfile, model_s: float, network_s: float) -> Result:
    if isinstance(result, FlowResult):
        return replace(result, compute_s=max(model_s, result.compute_s))
    if isinstance(result, ContextReport):
        return replace(
            result,
            prefill_s=max(model_s, result.prefill_s),
            queued_s=max(network_s, result.queued_s),
            flow_step_s=max(profile.flow_step.median_ms / 1000.0, result.flow_step_s),
        )
    return result
