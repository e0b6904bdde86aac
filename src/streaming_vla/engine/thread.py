"""Runs an engine on a thread of its own, and holds messages back where a latency profile gives a network."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Protocol

import numpy as np

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.engine.values import Reply

LOGGER = logging.getLogger(__name__)
MOST_AT_ONCE = 16  # messages that are taken before the model goes on
MOST_LATER = 64  # pieces of side work that wait at most; behind a model that never rests one is done after each slice


class Waiting(Protocol):
    """How the engine's thread waits; messages may come to it on this way too."""

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until something was heard, `wake` was called or the time is over; return whether there may be more.

        Args:
            timeout_s: None: for ever; 0: do not wait, but take what is there.
        """

    def wake(self) -> None:
        """End the wait, or the next one. From any thread."""


class EventWaiting:
    """Waits for nothing but `wake`."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def wait(self, timeout_s: float | None) -> bool:
        """See Waiting."""
        woken = self._woken.wait(timeout_s)
        self._woken.clear()
        return woken

    def wake(self) -> None:
        """See Waiting."""
        self._woken.set()


class EngineThread:
    """Polls the engine whenever there is something to do and sends its replies. Single use.

    Requests go in through `submit`, so that a profile's network can delay them as it delays replies. As on a real one
    what is lost holds back its own kind of message only: those of a stream arrive in the order in which they left.

    Args:
        engine: its `on_work` is taken.
        send: gets every reply, on this thread; what it raises is logged and counted.
        clock: seconds, monotonic.
        network: its transport delays every message; None: no network.
        seed: of the draws.
        waiting: how it waits; None: for requests of other threads only.
    """

    def __init__(
        self,
        engine: Engine,
        send: Callable[[Reply], None],
        clock: Callable[[], float],
        network: LatencyProfile | None = None,
        seed: int = 0,
        waiting: Waiting | None = None,
    ) -> None:
        self.engine = engine
        self.failed = 0  # replies that could not be sent
        self._send, self._clock, self._network = send, clock, network
        self._random = np.random.default_rng((seed, 2))
        self._waiting = waiting or EventWaiting()
        self._lock = threading.Lock()  # of what travels
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._later: deque[Callable[[], None]] = deque()
        self._order = itertools.count()
        self._arrival_s: dict[Hashable, float] = {}  # of the newest message of every stream
        self._closed = self._ended = False
        self._thread = threading.Thread(target=self._loop, name="inference engine", daemon=True)
        engine.on_work = self._wake

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: it was started before.
        """
        self._thread.start()

    def submit(self, request: Callable[[float], None], stream: str = "") -> None:
        """Hand a request to the engine, which gets the time at which it has arrived. From any thread.

        Args:
            request: called with the time.
            stream: name of the requests that a network keeps in their order.
        """
        if self._network is None or self._ended:
            request(self._clock())
        else:
            self._travel(("in", stream), lambda: request(self._clock()))
        if self._ended:
            self._refuse()

    def later(self, work: Callable[[], None]) -> None:
        """Do `work` on this thread when the model has nothing to do; to be called by `send`, for what can wait."""
        self._later.append(work)

    def close(self, timeout_s: float | None = None) -> bool:
        """Let the slice in work end, send what is held back, refuse what waits, join the thread. May be called again.

        Args:
            timeout_s: a policy that ends no slice is left behind after so long; None: wait for it.

        Returns:
            Whether the thread has ended.

        Raises:
            RuntimeError: called on this thread, which cannot join itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("engine: close was called from a reply, call it from another thread")
        first, self._closed = not self._closed, True
        self._waiting.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if first:
            self._ended = True  # from here on requests do not wait any more
            while self._due:
                heapq.heappop(self._due)[2]()
            self._refuse()
            while self._later:
                self._attempt(self._later.popleft())
        return not self._thread.is_alive()

    def _wake(self) -> None:
        if threading.current_thread() is not self._thread:
            self._waiting.wake()

    def _refuse(self) -> None:
        for reply in self.engine.close():
            self._deliver(replace(reply, done_s=self._clock()))

    def _travel(self, stream: Hashable, arrive: Callable[[], None]) -> None:
        assert self._network is not None, "without a network nothing travels"
        with self._lock:
            before_s = self._arrival_s.get(stream, 0.0)
            now = self._clock()
            arrival_s = max(before_s, now + self._network.transport_s(self._random, now))
            self._arrival_s[stream] = arrival_s
            heapq.heappush(self._due, (arrival_s, next(self._order), arrive))
        self._wake()

    def _loop(self) -> None:
        while True:
            rest_s = self._rest_s()
            if self._later and (rest_s > 0.0 or len(self._later) > MOST_LATER):
                self._attempt(self._later.popleft())
                rest_s = 0.0
            heard = self._waiting.wait(None if rest_s == float("inf") else max(0.0, rest_s))
            for _ in range(MOST_AT_ONCE if heard else 0):  # so that what several robots ask can go together
                if not self._waiting.wait(0.0):
                    break
            if self._closed:
                return
            if self._network is not None:
                self._arrive()
            for made in self.engine.poll(self._clock()):
                reply = Reply(made.session, made.value, made.request, self._clock())
                if self._network is None:
                    self._deliver(reply)
                else:
                    stream = (reply.session, type(reply.value))
                    self._travel(stream, lambda reply=reply: self._deliver(reply))  # type: ignore[misc]

    def _rest_s(self) -> float:
        """Return in how many seconds there is something to do."""
        due_s = self.engine.deadline()
        if self._network is not None:
            with self._lock:
                due_s = min(due_s, self._due[0][0] if self._due else float("inf"))
        return due_s - self._clock()

    def _arrive(self) -> None:
        """Hand over what has travelled for long enough."""
        now, arrived = self._clock(), []
        with self._lock:
            while self._due and self._due[0][0] <= now:
                arrived.append(heapq.heappop(self._due)[2])
        for arrive in arrived:
            arrive()

    def _deliver(self, reply: Reply) -> None:
        self._attempt(lambda: self._send(reply))

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # of whoever sends: the other replies go out all the same
            self.failed += 1
            LOGGER.exception("a reply of the engine could not be sent")
