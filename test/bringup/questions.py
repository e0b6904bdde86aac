"""Questions that another process can be given, of every way in which one may end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streaming_vla.ros.middleware import MiddlewareError

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@contextmanager
def twice(number: int) -> Iterator[int]:
    yield 2 * number


@contextmanager
def refused(sentence: str) -> Iterator[None]:
    raise MiddlewareError(sentence)
    yield


@contextmanager
def hung(pids: str) -> Iterator[None]:
    Path(pids).write_text(f"{os.getpid()} {subprocess.Popen(SLEEP).pid}", encoding="ascii")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(600)
    yield


@contextmanager
def hung_on_the_way_down() -> Iterator[str]:
    yield "seen"
    time.sleep(600)


@contextmanager
def killed() -> Iterator[None]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield
