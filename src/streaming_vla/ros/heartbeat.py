"""Tells who started this process that its node runs, in the words of systemd's services (sd_notify).

It comes from the loop that runs the node's callbacks, so that a loop that hangs is silent; and over a socket that the
starter names in the environment, so that nobody on the network can speak for a node. A node that systemd itself starts
as a service with `Type=notify` and `WatchdogSec` is watched in the same way.
"""

from __future__ import annotations

import contextlib
import os
import socket

PERIOD_S = 0.25
VARIABLE = "NOTIFY_SOCKET"
STATUS = "STATUS="


class Heartbeat:
    """Says several times a second which state the node is in; silent where nobody asked for it."""

    def __init__(self) -> None:
        address = os.environ.pop(VARIABLE, "")  # what this process starts speaks for itself
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._said = ""
        self._due_s = 0.0

    def beat(self, state: str, now: float) -> None:
        """Say the state, at once when it is another one.

        Args:
            state: of the node's life, as ROS names it.
            now: monotonic seconds.
        """
        if self._socket is None or (state == self._said and now < self._due_s):
            return
        self._said, self._due_s = state, now + PERIOD_S
        ready = "READY=1\n" if state == "active" else ""
        with contextlib.suppress(OSError):  # it is gone, or has more words of ours than it reads
            self._socket.sendto(f"{ready}WATCHDOG=1\n{STATUS}{state}".encode(), self._address)

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
