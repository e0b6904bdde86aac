"""Parallel processes: every result comes, and a process that is killed ends the work with a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from math import factorial
from typing import Any, cast

import psutil
import pytest

from streaming_vla.workbench.processes import AGAIN, WorkerLost, map_in, map_in_processes, open_pool
from streaming_vla.workbench.virtual.runs import VirtualRun, run_all

OWN_PID = "__import__('os').getpid()"  # a process cannot import functions of a test
pytestmark = pytest.mark.timeout(100)  # on a busy machine a process takes seconds to start


@pytest.mark.parametrize("at_once", [1, 3])
def test_every_result_comes_with_its_item(at_once: int) -> None:
    items = [[each] for each in range(7)]
    found = list(map_in_processes(sum, items, 2, at_once))
    assert sorted(found) == [([each], each) for each in range(7)]
    assert all(any(item is each for each in items) for item, _ in found), "the items themselves, no copies"


def test_processes_stay_between_runs_and_a_run_can_be_left() -> None:
    pool = open_pool(1)
    try:
        ((_, pid),) = map_in(pool, eval, [OWN_PID])
        left = map_in(pool, time.sleep, [0.1] * 1000)
        next(left)
        left.close()
        ((_, again),) = map_in(pool, eval, [OWN_PID])
        assert again == pid, "and the other 999 were not waited for"
    finally:
        pool.shutdown(cancel_futures=True)


def test_what_the_work_raises_comes_as_it_is() -> None:
    with pytest.raises(ValueError, match="not defined for negative values"):
        list(map_in_processes(factorial, [3, -1], 1))


def test_a_killed_process_ends_the_work_with_a_sentence() -> None:
    found = map_in_processes(signal.raise_signal, [signal.SIGCONT, signal.SIGKILL, *[signal.SIGCONT] * 50], 1)
    assert next(found) == (signal.SIGCONT, None), "what was done before is there"
    with pytest.raises(WorkerLost, match=f"a worker process ended in the middle of its work.*: {AGAIN}"):
        list(found)


class Deadly:
    """A job that ends the process which receives it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_a_study_has_new_processes_after_one_was_lost() -> None:
    jobs = [(seed, cast(VirtualRun, Deadly())) for seed in range(4)]
    for _ in range(2):
        with pytest.raises(WorkerLost, match="kept"):
            list(run_all(jobs, str, 2, "what is kept is kept"))


def test_processes_end_with_the_one_that_made_them() -> None:
    code = (
        "import os, time\n"
        "from streaming_vla.workbench.processes import map_in, open_pool\n"
        "if __name__ == '__main__':\n"
        "    pool = open_pool(1)\n"
        "    list(map_in(pool, time.sleep, [0.0]))\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        workers = [each for each in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(each.cmdline())]
        parent.kill()
    assert len(workers) == 1
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
