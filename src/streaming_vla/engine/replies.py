"""Counts outcomes and hands them to whoever waits, so that an error over there does not end the worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from streaming_vla.machines.counters import Counters

LOGGER = logging.getLogger(__name__)
Result = TypeVar("Result")


class Replies:
    """Counters may be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters = Counters()

    def count(self, code: str) -> None:
        """Add one to `code`."""
        with self._lock:
            self._counters.count(code)

    def counts(self) -> dict[str, int]:
        """Return a copy of all counts."""
        with self._lock:
            return self._counters.as_dict()

    def send(self, code: str, done: Callable[[Result], None], result: Result) -> None:
        """Count `code` and call `done`; what it raises is logged and counted as callback_failed."""
        self.count(code)
        try:
            done(result)
        except Exception:
            self.count("callback_failed")
            LOGGER.exception("whoever waited for an answer of the engine raised an error")
