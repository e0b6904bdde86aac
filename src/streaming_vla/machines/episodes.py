"""Which episode a machine works on, and what an Episode message changes; shared by all machines."""

from __future__ import annotations

from enum import Enum

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.events import Episode


class Change(Enum):
    """What an Episode message means to a machine."""

    NEW = "new"  # another episode has begun: forget everything
    ENDED = "ended"  # no episode is active any more
    SAME = "same"  # sent again, perhaps with another instruction
    OLD = "old"  # of the past: drop it


class CurrentEpisode:
    """The newest episode that was heard of; numbers only grow, and an episode that ended stays so."""

    def __init__(self) -> None:
        self.number = 0
        self.active = False
        self.instruction = ""

    def take(self, episode: Episode) -> Change:
        """Take a message and return what it changes."""
        if episode.number < self.number:
            return Change.OLD
        if episode.number == self.number and episode.active and not self.active:
            return Change.OLD
        if episode.number == self.number and episode.active == self.active:
            self.instruction = episode.instruction
            return Change.SAME
        self.number, self.active, self.instruction = episode.number, episode.active, episode.instruction
        return Change.NEW if episode.active else Change.ENDED

    def renew(self, episode: Episode, counters: Counters) -> bool:
        """Take a message; True when everything of the episode before must be forgotten. One of the past is counted."""
        change = self.take(episode)
        if change is Change.OLD:
            counters.count("old_episode")
        return change in (Change.NEW, Change.ENDED)

    def runs(self, number: int) -> bool:
        """True when `number` is the episode that is active."""
        return self.active and number == self.number
