"""A thread of its own for calls that block: each has a deadline, and nobody waits for one that never returns."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any


class CallThread:
    """Calls functions one by one; it may be stuck in one for ever, without keeping the process from ending.

    A call whose future is cancelled before its turn is left out.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._since_s: float | None = None  # of the call in work

    def call(self, function: Callable[[], Any], timeout_s: float, late: Exception) -> Future[Any]:
        """Let a function be called; return its result to come.

        Args:
            function: without arguments.
            timeout_s: seconds from now, those in which others are called included.
            late: the result's exception when it is not there by then.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        result: Future[Any] = Future()
        timer = threading.Timer(timeout_s, _settle, (result.set_exception, late))
        timer.daemon = True
        timer.start()
        result.add_done_callback(lambda _done: timer.cancel())
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
