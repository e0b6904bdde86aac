"""Ctrl-C while a process has not begun yet, and how one ends that has."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPED = 128 + signal.SIGINT  # exit code of a program that Ctrl-C has ended


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process at once and in silence, as it does with any other program.

    For the time in which modules are imported: an interrupt there is a traceback of twenty lines, or lost in native
    code that is just being loaded, and nothing has begun that would have to be put away.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # a shell's background job: whoever started it does not want it to end so
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
