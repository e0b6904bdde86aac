"""Which episode a machine works on, and what an Episode message changes; shared by all machines."""

from __future__ import annotations

from enum import Enum

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.events import Episode

# A number that is wrong or forged must not make every later one an old one. Episodes are numbered by the seconds of a
# clock since 2023 and one by one: the first that a node hears may be any that a clock shows for decades, and a monitor
# that was started again jumps by as many seconds as the suite had run, here more than a year.
LARGEST_OF_A_CLOCK = 1 << 30
EPISODES_AHEAD = 1 << 25
LARGEST_EPISODE = (1 << 32) - 1
SEQUENCES_AHEAD = 100_000  # observations of one episode: hours; a node that is started again hears none before


def episode_is_far_ahead(number: int, newest: int) -> bool:
    """Whether no monitor comes to the episode `number` when `newest` is the newest that is known, below 1: none is."""
    return number > max(newest, LARGEST_OF_A_CLOCK) + EPISODES_AHEAD


def is_far_ahead(sequence: int, newest: int) -> bool:
    """Whether no episode comes to the observation `sequence` after `newest`, -1 before the first."""
    return sequence > newest + SEQUENCES_AHEAD


class Change(Enum):
    """What an Episode message means to a machine."""

    NEW = "new"  # another episode has begun: forget everything
    ENDED = "ended"  # no episode is active any more
    SAME = "same"  # sent again, perhaps with another instruction
    OLD = "old"  # of the past: drop it
    FAR = "far"  # so far ahead that it is wrong or forged: drop it


DROPPED = {Change.OLD: "old_episode", Change.FAR: "episode_far_ahead"}  # and what each is counted by


class CurrentEpisode:
    """The newest episode that was heard of; numbers only grow, and an episode that ended stays so."""

    def __init__(self) -> None:
        self.number = 0
        self.active = False
        self.instruction = ""

    def take(self, episode: Episode) -> Change:
        """Take a message and return what it changes."""
        if episode_is_far_ahead(episode.number, self.number):
            return Change.FAR
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
        """Take a message; True when everything of the episode before must be forgotten. What is dropped is counted."""
        change = self.take(episode)
        if change in DROPPED:
            counters.count(DROPPED[change])
        return change in (Change.NEW, Change.ENDED)

    def runs(self, number: int) -> bool:
        """True when `number` is the episode that is active."""
        return self.active and number == self.number
