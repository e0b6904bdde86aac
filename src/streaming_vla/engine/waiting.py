"""What waits for the worker: one observation per session, and few requests of each kind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from streaming_vla.engine.refused import Refused
from streaming_vla.engine.values import ContextReport, EncodedObservation, Refusal
from streaming_vla.engine.worker import Priority

MAX_REQUESTS = 8  # waiting requests of one kind and session; a robot has one or two in flight

ObservationDone = Callable[[ContextReport | Refusal], None]


@dataclass(frozen=True)
class WaitingObservation:
    """An observation, who waits for its context, and since when (seconds)."""

    observation: EncodedObservation
    done: ObservationDone
    since_s: float

    @property
    def age(self) -> tuple[int, int]:
        """Episode and sequence: larger is newer."""
        return self.observation.episode, self.observation.sequence


class Waiting:
    """Bounds what may queue up. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._observations: dict[str, WaitingObservation] = {}
        self._requests: Counter[tuple[str, Priority]] = Counter()

    def offer(self, new: WaitingObservation) -> WaitingObservation | None:
        """Let an observation wait; return the older one whose place it took.

        Raises:
            Refused: a newer observation of the session is waiting already.
        """
        name = new.observation.session
        with self._lock:
            old = self._observations.get(name)
            if old is not None and old.age >= new.age:
                raise Refused(
                    "old_episode" if new.observation.episode < old.observation.episode else "old_sequence",
                    f"observation {new.observation.sequence} of {name} comes after observation "
                    f"{old.observation.sequence} of episode {old.observation.episode}",
                )
            self._observations[name] = new
            return old

    def take(self, session: str) -> WaitingObservation | None:
        """Return the session's waiting observation, which waits no longer; None when none waits."""
        with self._lock:
            return self._observations.pop(session, None)

    def take_other(self, session: str, episode: int) -> WaitingObservation | None:
        """Return the session's waiting observation when it is of another episode; it waits no longer."""
        with self._lock:
            waiting = self._observations.get(session)
            if waiting is None or waiting.observation.episode == episode:
                return None
            return self._observations.pop(session)

    def newest_episode(self, session: str) -> int:
        """Return the episode of the session's waiting observation, -1 when none waits."""
        with self._lock:
            waiting = self._observations.get(session)
            return -1 if waiting is None else waiting.observation.episode

    def enter(self, session: str, kind: Priority) -> None:
        """Count a request that waits.

        Raises:
            Refused: too many of its kind are waiting.
        """
        with self._lock:
            if self._requests[session, kind] >= MAX_REQUESTS:
                raise Refused(
                    "too_many_waiting",
                    f"{MAX_REQUESTS} requests of kind {kind.name.lower()} of {session} are waiting already",
                )
            self._requests[session, kind] += 1

    def leave(self, session: str, kind: Priority) -> None:
        """A request that entered is served."""
        with self._lock:
            self._requests[session, kind] -= 1
            if not self._requests[session, kind]:
                del self._requests[session, kind]
