"""What a supervisor hears of the nodes that it has started: who is silent, who is away, and who has to be killed."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
from pathlib import Path

from streaming_vla.machines.events import NodesAway
from streaming_vla.ros.heartbeat import STATUS, VARIABLE

SILENT_S = 1.0  # from here on the executor is told, before its ladder ends
HUNG_S = 4.0  # as nav2's bond waits
OWN_PAUSE_S = 0.5  # a supervisor that did not run for so long knows nothing of the others
TOLD_AGAIN_S = 1.0
ACTIVE = "active"
_NUMBERS = itertools.count(1)  # of the supervisors of this process


class HeartbeatSocket:
    """Where the process of one node says that it runs.

    Args:
        path: of the socket; a folder of this user's, in which nobody else may speak.
    """

    def __init__(self, path: Path) -> None:
        self.environment = {VARIABLE: str(path)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))

    def newest(self) -> str:
        """Return the state that was said last since the last call; empty when nothing was."""
        state = ""
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self._socket.recv(4096).decode(errors="replace").splitlines():
                    state = line.removeprefix(STATUS) if line.startswith(STATUS) else state
        return state

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


class Watch:
    """What the heartbeats say of one node; times are monotonic seconds.

    A node that has never said anything is not watched: it may be none of this suite's.

    Args:
        may_hang: its callbacks may take long (a simulated robot builds a scene in one, and is the first that a busy
            machine starves), so its silence means nothing.
    """

    def __init__(self, may_hang: bool = False) -> None:
        self._may_hang = may_hang
        self.been_active = False
        self._speaks = False
        self._looked_s = math.inf  # when this supervisor did run
        self._active_s = 0.0  # when it was last known to be
        self.forget(0.0)

    def forget(self, now: float) -> None:
        """Its process has ended, or another was started: what was heard of the one before counts no more."""
        self.state = ""
        self._heard_s = now
        self._inactive_s = math.inf  # since when it says that it is not active

    def hear(self, state: str, now: float) -> None:
        """Take what it has said since the last call; empty: nothing. To be called many times a second."""
        paused_s = now - self._looked_s
        self._looked_s = now
        if paused_s > OWN_PAUSE_S:
            self._heard_s = min(now, self._heard_s + paused_s)
            self._inactive_s += paused_s
        if not state:
            return
        self.state, self._heard_s, self._speaks = state, now, True
        if state == ACTIVE:
            self.been_active, self._inactive_s, self._active_s = True, math.inf, now
        else:
            self._inactive_s = min(self._inactive_s, now)

    def away_s(self, now: float) -> float | None:
        """Return for how long a node that has been active is not; None while it is, or before it was."""
        heard = self._may_hang or now - self._heard_s < SILENT_S
        if not self._speaks or not self.been_active or (self.state == ACTIVE and heard):
            return None
        return now - self._active_s

    def fault(self, now: float) -> str:
        """Return why its process, whose node has been active, must be killed; empty when it must not."""
        silent_s, inactive_s = now - self._heard_s, now - self._inactive_s
        if self.state and silent_s >= HUNG_S and not self._may_hang:
            return f"hangs, it has said nothing for {silent_s:.1f} s, and is killed"
        if inactive_s >= HUNG_S:
            return f"has been {self.state} for {inactive_s:.1f} s, which its starter did not ask for, and is killed"
        return ""


class Telling:
    """Decides when a supervisor tells which of its nodes are away: on every change, and again while there are any."""

    def __init__(self) -> None:
        self._supervisor = f"{socket.gethostname()} {os.getpid()} {next(_NUMBERS)}"
        self._told: tuple[str, ...] = ()
        self._told_s = -math.inf

    @property
    def nobody(self) -> NodesAway:
        """What is told when all are there."""
        return NodesAway(self._supervisor)

    def tell(self, away_s: dict[str, float], now: float) -> NodesAway | None:
        """Return what is to be told of the nodes that are away, with seconds; None when that is known."""
        names = tuple(sorted(away_s))
        if names == self._told and not (names and now >= self._told_s + TOLD_AGAIN_S):
            return None
        self._told, self._told_s = names, now
        return NodesAway(self._supervisor, names, tuple(away_s[name] for name in names))
