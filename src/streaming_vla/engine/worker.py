"""One thread that works on jobs by priority, one slice at a time."""

from __future__ import annotations

import heapq
import logging
import threading
from enum import IntEnum
from typing import Protocol

LOGGER = logging.getLogger(__name__)


class Priority(IntEnum):
    """Which job is looked at first; jobs of one priority go in the order in which they came."""

    NOTICE = 0  # tells somebody that a request was refused, no work
    RESET = 1
    FLOW_STEP = 2
    SALIENCY = 3
    PREFILL = 4


class Job(Protocol):
    """Work in slices. It answers for its own errors: what it raises all the same is logged and ends the job."""

    @property
    def priority(self) -> Priority:
        """Its place among other jobs."""

    def run(self) -> bool:
        """Do one slice; True when another one is needed."""

    def cancel(self) -> None:
        """Will never be run again because the worker is closed: tell whoever waits."""


class Worker:
    """Runs jobs on its thread, or slice by slice from `work` where a caller has its own clock. Single use."""

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[Priority, int, Job]] = []
        self._order = 0
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: it was started before.
        """
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job from any thread; on a closed worker it is cancelled at once, on the caller's thread."""
        with self._changed:
            if not self._closed:
                heapq.heappush(self._heap, (job.priority, self._order, job))
                self._order += 1
                self._changed.notify()
                return
        job.cancel()

    def work(self) -> bool:
        """Do the next slice on the caller's thread; False when nothing is queued. Not for a started worker."""
        with self._changed:
            if not self._heap:
                return False
            priority, order, job = heapq.heappop(self._heap)
        if self._run(job):
            with self._changed:
                # under its old number: a job that has begun stays before later ones of its priority
                heapq.heappush(self._heap, (priority, order, job))
        return True

    def close(self) -> None:
        """Let the slice in work end, cancel what is queued, and join the thread. May be called again.

        Raises:
            RuntimeError: called on the worker's own thread, which cannot join itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("worker: close was called from an answer, call it from another thread")
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._cancel_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._heap or self._closed)
                if self._closed:
                    break
            self.work()
        self._cancel_all()

    def _cancel_all(self) -> None:
        with self._changed:
            jobs = [job for _, _, job in sorted(self._heap)]
            self._heap.clear()
        for job in jobs:
            try:
                job.cancel()
            except Exception:
                LOGGER.exception("a job could not be cancelled")

    @staticmethod
    def _run(job: Job) -> bool:
        try:
            return job.run()
        except Exception:
            LOGGER.exception("a job of priority %s ended with an error", job.priority.name)
            return False
