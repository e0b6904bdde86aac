"""Which client has which of the engine's sessions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Generic, TypeVar

Who = TypeVar("Who")


@dataclass
class _Seat(Generic[Who]):
    owner: Who
    since_s: float  # of the end of its newest request
    busy: bool = True


class SeatsFull(Exception):
    """All sessions are in use; the message is one sentence."""


class Seats(Generic[Who]):
    """Sessions by name. A client has one from its first request on, so that silent ones take none.

    Where all are taken, that of the client which has been idle the longest is given away, if it was idle for `idle_s`.

    Args:
        count: sessions.
        idle_s: seconds without a request after which a session may be given away.
    """

    def __init__(self, count: int, idle_s: float) -> None:
        self._names = [f"client_{number}" for number in range(count)]
        self._idle_s = idle_s
        self._seats: dict[str, _Seat[Who]] = {}
        self._episodes = itertools.count(1)  # none is given twice, so that what is late is known by its number

    def of(self, who: Who) -> str | None:
        """Return the session of a client; None when it has none."""
        return next((name for name, seat in self._seats.items() if seat.owner is who), None)

    def new_episode(self) -> int:
        """Return the number of a new episode of any session."""
        return next(self._episodes)

    def take(self, who: Who, now: float) -> tuple[str, Who | None]:
        """Give a client a session that it keeps; return its name, and the client that it was taken from.

        Raises:
            SeatsFull: every session is in use.
        """
        free = next((name for name in self._names if name not in self._seats), None)
        lost: Who | None = None
        if free is None:
            idle = [(seat.since_s, name) for name, seat in self._seats.items() if not seat.busy]
            since_s, free = min(idle, default=(now, ""))
            if not free or now - since_s < self._idle_s:
                raise SeatsFull(
                    f"all {len(self._names)} sessions are in use: try again later, or start the server with more "
                    "--clients"
                )
            lost = self._seats.pop(free).owner
        self._seats[free] = _Seat(who, now)
        return free, lost

    def work(self, who: Who, now: float, busy: bool) -> None:
        """A client's request begins or ends."""
        name = self.of(who)
        if name is not None:
            self._seats[name].since_s, self._seats[name].busy = now, busy

    def leave(self, who: Who) -> str | None:
        """Free a client's session; return its name, None when it had none."""
        name = self.of(who)
        if name is not None:
            del self._seats[name]
        return name
