"""Work in parallel processes of this machine; one that is killed ends the work with a sentence, not a wait for ever."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AGAIN = "run the command again, with fewer processes where memory is short"
RESUMED = f"{AGAIN}; what is finished is kept"


class WorkerLost(ChildProcessError):
    """A worker process ended in the middle of its work; the message says what to do."""


def map_in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, at_once: int = 1, again: str = AGAIN
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, result) as they come, from processes that end with it; see `map_in`."""
    pool = open_pool(processes)
    try:
        yield from map_in(pool, work, items, at_once, again)
    finally:
        pool.shutdown(cancel_futures=True)


def open_pool(processes: int) -> ProcessPoolExecutor:
    """Return processes that start when there is work, and end with this one."""
    # multiprocessing's own Pool waits for ever for the work of a process that has been killed
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent)


def map_in(
    pool: ProcessPoolExecutor,
    work: Callable[[Item], Result],
    items: Sequence[Item],
    at_once: int = 1,
    again: str = AGAIN,
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, result) as they come; what has not begun when the iterator is closed is not done any more.

    Args:
        work: a function that a process can be sent.
        at_once: neighbours in `items` that one process takes together.
        again: what to do when a process has been lost, the end of that sentence.

    Raises:
        WorkerLost: a process was killed or could not begin; the pool is of no more use. What `work` raises, as it is.
    """
    waiting: dict[Future[list[Result]], Sequence[Item]] = {}
    try:
        for begin in range(0, len(items), at_once):
            together = items[begin : begin + at_once]
            waiting[pool.submit(_work_through, work, together)] = together
        for done in as_completed(waiting):
            # taken out: a result is not held longer than its receiver does
            yield from zip(waiting.pop(done), done.result(), strict=True)
    except BrokenProcessPool as error:
        raise WorkerLost(
            f"a worker process ended in the middle of its work, most often killed for want of memory: {again}"
        ) from error
    finally:
        for future in waiting:
            future.cancel()


def end_with_parent() -> None:
    """End this process when the one that made it is gone, or at Ctrl-C, whatever it is at."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else it would go on with the next of the work
    # neither a wait for work nor a training notices by itself that nobody is left to take what comes of it
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker process has a parent"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _work_through(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [work(item) for item in items]
