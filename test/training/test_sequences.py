"""Which frames make a sequence: the same seed must give what it has always given, else no training can be repeated."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from streaming_vla.training.plan import Source
from streaming_vla.training.sequences import Episode, Seen, cut_sequence, memory_sequence
from streaming_vla.training.windows import Track

FRAMES, EVERY = 48, 3


def episode(name: str, cue: int, wait: int) -> Episode:
    """Return an episode without contents: `cue` frames, `wait` frames, and the choice."""
    step = np.arange(FRAMES, dtype=np.int32) * EVERY
    waiting = (np.arange(FRAMES) >= cue) & (np.arange(FRAMES) < cue + wait)
    empty, bare = np.zeros((FRAMES, 4), dtype=np.float32), np.zeros((FRAMES, 6), dtype=np.float32)
    window, until = np.zeros((FRAMES, 16, 4), dtype=np.float32), np.full(FRAMES, FRAMES - 1)
    track = Track(step, empty, window, empty, empty, empty, until)
    recall = np.zeros(FRAMES, dtype=np.int64)
    offset = np.zeros((FRAMES, 2, 2), dtype=np.int64)
    return Episode(name, track, bare, step, empty, bare, recall, waiting, np.zeros(0, dtype=np.uint8), offset)


OWN, OTHER, ENDING = episode("own", 6, 30), episode("other", 4, 36), episode("ending", 5, 28)


def said(sequence: list[Seen]) -> str:
    """Return a sequence as text: frames of OWN as numbers, those of others behind their first letter."""
    return " ".join(f"{'' if each is OWN else each.name[0]}{frame}" for each, frame in sequence)


@pytest.mark.parametrize(
    ("seed", "expected"), [(0, "0 4 7 10 12 14"), (1, "31 34 37 41 45 47"), (3, "21 25 27 29 31 33")]
)
def test_a_cut_is_what_it_was(seed: int, expected: str) -> None:
    source = Source(tasks={"reach": 1.0}, length=6, stride=(6, 14))
    assert said(cut_sequence(OWN, source, np.random.default_rng(seed))) == expected


@pytest.mark.parametrize(
    ("spliced", "seed", "expected"),
    [
        (False, 0, "0 4 8 7 11 15 19 23 27 12 15 18 21 24 27 30 34 38 42 46"),
        (False, 2, "0 4 7 10 13 16 7 11 15 19 20 23 26 29 33 37 41 45"),
        (True, 1, "0 3 7 11 15 18 e21 e25 e29 e33 e37"),
        (True, 2, "0 4 7 10 13 16 20 o18 6 o22 o25 o28 o32 o35 o39 o43 o47"),
    ],
)
def test_a_memory_sequence_is_what_it_was(spliced: bool, seed: int, expected: str) -> None:
    source = Source(tasks={"count": 1.0}, length=20, stride=(9, 14), memory=True)
    endings = [ENDING, OTHER] if spliced else []
    sequence = memory_sequence(OWN, [OWN, OTHER], endings, source, np.random.default_rng(seed))
    assert said(sequence) == expected


def test_the_choice_of_a_pilot_that_forgets_is_used_as_far_as_it_goes() -> None:
    source = Source(tasks={"count": 1.0}, length=20, stride=(9, 9), memory=True)
    blind = dataclasses.replace(ENDING, forgetful=True)
    used = set()
    for seed in range(30):
        sequence = memory_sequence(OWN, [OWN], [blind], source, np.random.default_rng(seed))
        choice = [place for each, place in sequence if each is blind and not each.waiting[place]]
        assert choice == list(range(choice[0], choice[-1] + 1, 3)) and choice[0] <= 33 + 2
        used.add(len(choice))
    assert used == {1, 2, 3, 4, 5}
