"""Runs a node of the suite and says on stderr how far its process has come: python -m stamped_node ... __node:=NAME.

The times are those of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import importlib
import sys
import time

MARK = "STAMP"


def stamp(step: str, at_s: float | None = None) -> None:
    """Say that `step` is done."""
    print(f"{MARK} {step} {time.monotonic() if at_s is None else at_s:.3f}", file=sys.stderr, flush=True)


def started_s() -> float:
    """Return when this process was started, monotonic seconds; the kernel counts in hundredths."""
    with open("/proc/self/stat", encoding="ascii") as stat:
        ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
    ago_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / 100.0
    return time.monotonic() - ago_s


def main() -> None:
    """Stamp and run."""
    stamp("process", started_s())
    stamp("python")
    name = next(word for word in sys.argv if word.startswith("__node:=")).removeprefix("__node:=")
    module = importlib.import_module(f"streaming_vla.ros.nodes.{name}")
    from streaming_vla.ros.base import SuiteNode

    stamp("imported")
    for hook, step in (("start", "made"), ("on_configure", "configured"), ("on_activate", "active")):
        _stamp_around(SuiteNode, hook, step)
    module.main()


def _stamp_around(owner: type, hook: str, step: str) -> None:
    """Stamp when the method has returned; `start` when it begins, for then the node is made."""
    inner = getattr(owner, hook)

    def outer(self: object, *arguments: object) -> object:
        if hook == "start":
            stamp(step)
        result = inner(self, *arguments)
        if hook != "start":
            stamp(step)
        return result

    setattr(owner, hook, outer)


if __name__ == "__main__":
    main()
