"""Sequences of observations: which frames of which recorded episodes follow each other.

The order of the draws is part of a training run: the same seed gives the same sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.training.endings import DECISIONS, SETTLED_STEPS
from streaming_vla.training.plan import Source
from streaming_vla.training.windows import Track


@dataclass(frozen=True)
class Episode:
    """A recorded episode of F frames (see record_episode and Batch); `name` is that of its file.

    `forgetful`: of a memory task, flown by a pilot without a memory, so that no frame tells the answer.
    """

    name: str
    track: Track
    goals: npt.NDArray[np.float32]
    step: npt.NDArray[np.int32]
    state: npt.NDArray[np.float32]
    scene: npt.NDArray[np.float32]
    recall: npt.NDArray[np.int64]
    waiting: npt.NDArray[np.bool_]
    jpeg: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.int64]
    forgetful: bool = False


Seen = tuple[Episode, int]
"""An observation: an episode and the number of the frame."""


def cut_sequence(episode: Episode, source: Source, random: np.random.Generator) -> list[Seen]:
    """Return up to T observations of an episode; both ends are met more often than a uniform start would meet them."""
    ahead = np.concatenate(([0], _strides(episode, source, random).cumsum()))
    frames, total = len(episode.step), int(ahead[-1])
    first = -0.3 * total - 1
    start = int(np.clip(random.uniform(first, max(first, frames - 0.7 * total)), 0, max(0, frames - 1 - total)))
    return [(episode, int(place)) for place in start + ahead if place < frames]


def memory_sequence(
    episode: Episode,
    episodes: Sequence[Episode],
    endings: Sequence[Episode],
    source: Source,
    random: np.random.Generator,
) -> list[Seen]:
    """Return up to T observations from the episode's start on, the wait lengthened by pieces of other episodes.

    Args:
        endings: where there are any, the later part of the wait and the choice are those of one of them.
    """
    own = _through(episode, 0, source, random)
    if endings:
        own = _spliced(own, endings[int(random.integers(len(endings)))], source, random)
    own = own[: source.length]
    spare = int(random.integers(source.length - len(own) + 1))
    waits = [number for number, (each, place) in enumerate(own) if each.waiting[place]]
    added: list[Seen] = []
    while len(added) < spare and waits:
        other = episodes[int(random.integers(len(episodes)))]
        waiting = np.flatnonzero(other.waiting)
        step = int(_strides(other, source, random)[0])
        added += [(other, int(place)) for place in waiting[random.integers(step) :: step]]
    if not added:
        return own
    cut = waits[random.integers(len(waits))] + 1
    return own[:cut] + added[:spare] + own[cut:]


def _strides(episode: Episode, source: Source, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the frames from one observation to the next, [T - 1]."""
    every = int(episode.step[1] - episode.step[0]) if len(episode.step) > 1 else 1
    low, high = source.stride
    return random.integers(max(1, low // every), max(1, high // every) + 1, source.length - 1)


def _through(episode: Episode, first: int, source: Source, random: np.random.Generator) -> list[Seen]:
    """Return up to T observations from frame `first` on."""
    places = first + np.concatenate(([0], _strides(episode, source, random).cumsum()))
    return [(episode, int(place)) for place in places if place < len(episode.step)]


def _spliced(own: list[Seen], ending: Episode, source: Source, random: np.random.Generator) -> list[Seen]:
    """Return the cue and the settling of `own`, then the rest of the wait and the first of the choice of `ending`.

    Of a choice that tells nothing any number of observations is used: they show hands that stand still beside a goal,
    where the expert's never do.
    """
    mine, theirs = _settled(own[0][0]), _settled(ending)
    after = _through(ending, theirs + int(random.integers(3)), source, random)
    choice = [pair for pair in after if pair[1] > theirs and not ending.waiting[pair[1]]]
    wait = [pair for pair in after if ending.waiting[pair[1]]]
    used = int(random.integers(1, len(choice) + 1)) if ending.forgetful and choice else DECISIONS
    return [pair for pair in own if pair[1] <= mine] + wait + choice[:used]


def _settled(episode: Episode) -> int:
    """Return the frame at which the hand has reached the marker, in the wait."""
    waiting = np.flatnonzero(episode.waiting)
    since = episode.step[waiting] - episode.step[waiting[0]]
    return int(waiting[min(int(np.searchsorted(since, SETTLED_STEPS)), len(waiting) - 1)])
