"""What a launch file does beside starting nodes again: it hears their heartbeats, tells who is away, kills a hang."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from streaming_vla.bringup.graph import GraphNode
from streaming_vla.bringup.heartbeats import HeartbeatSocket, Telling, Watch
from streaming_vla.machines.events import NodesAway

LOOK_S = 0.1  # between two calls of `look`


class Supervision:
    """Watches processes that somebody else starts, and starts again when they end.

    Args:
        nodes: that are started.
        folder: private, for their sockets.
        tell: gets which nodes are away.
        say: gets why a process is killed, and that a node is back.
    """

    def __init__(
        self, nodes: Sequence[GraphNode], folder: Path, tell: Callable[[NodesAway], None], say: Callable[[str], None]
    ) -> None:
        self._sockets = {node.name: HeartbeatSocket(folder / node.name) for node in nodes}
        self._watches = {node.name: Watch(may_hang=node.simulated_only) for node in nodes}
        self._processes: dict[str, int] = {}
        self._away_s: dict[str, float] = {}
        self._telling = Telling()
        self._tell, self._say = tell, say

    @property
    def nobody(self) -> NodesAway:
        """What is told when all are there."""
        return self._telling.nobody

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables that the process of a node needs."""
        return self._sockets[name].environment

    def started(self, name: str, pid: int, now: float) -> None:
        """A process of a node runs; `now` in monotonic seconds."""
        self._sockets[name].newest()  # words of the process before
        self._watches[name].forget(now)
        self._processes[name] = pid

    def ended(self, name: str, now: float) -> None:
        """The process of a node has ended."""
        self._watches[name].forget(now)
        self._processes.pop(name, None)

    def look(self, now: float) -> None:
        """Hear, tell and kill; to be called every `LOOK_S`, `now` in monotonic seconds."""
        before, self._away_s = self._away_s, {}
        for name, watch in self._watches.items():
            watch.hear(self._sockets[name].newest(), now)
            away_s = watch.away_s(now)
            if away_s is not None:
                self._away_s[name] = away_s
            elif name in before:
                self._say(f"{name}: recovered, it was away for {before[name]:.1f} s")
            if name in self._processes and (fault := watch.fault(now)):
                self._say(f"node '{name}': {fault}")
                os.kill(self._processes.pop(name), signal.SIGKILL)
        if (told := self._telling.tell(self._away_s, now)) is not None:
            self._tell(told)

    def close(self) -> None:
        """Hear no more."""
        for heard in self._sockets.values():
            heard.close()
