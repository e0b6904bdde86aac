"""Real-time priority for the threads of this process, where the system permits it."""

from __future__ import annotations

import os
from pathlib import Path

ADVICE = (
    "no permission for realtime_priority {}, this node shares the processor with everything else: "
    "allow 'rtprio' in /etc/security/limits.conf, or set it to 0"
)


def raise_priority(priority: int) -> str:
    """Give every thread of this process SCHED_FIFO `priority`; 0 leaves them alone.

    The threads of the middleware are meant above all: they hand over every message, and a scheduler that lets the
    thread which runs finish its slice first makes each message wait for milliseconds.

    Returns:
        What the operator should know, empty when all went well.
    """
    if not priority:
        return ""
    try:
        for thread in Path("/proc/self/task").iterdir():
            # processes that are started later stay as they are
            os.sched_setscheduler(int(thread.name), os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except ProcessLookupError:
        return raise_priority(priority)  # a thread has just ended
    except PermissionError:
        return ADVICE.format(priority)
    return ""
