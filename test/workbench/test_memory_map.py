"""What a cache kept: fates told by its counts, live or recorded, whether the cue is held, and the picture of it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from kv_cache import POLICY_NAMES, CacheSpec, CacheStats, Gate, GateConfig, SessionCache, make_policy
from streaming_vla.sim.memory_rules import Count, CuedReach
from streaming_vla.workbench.evaluation.chunk_log import ChunkFate, ChunkLog, Fate, held_exactly
from streaming_vla.workbench.evaluation.closed_loop_runner import ClosedLoopRunner
from streaming_vla.workbench.evaluation.memory_map import MemoryMap, check_picture, draw_memory_map, map_of_episode
from streaming_vla.workbench.evaluation.memory_outcome import fates_by_observation, held_observations, outcome_of

SPEC = CacheSpec(layers=2, kv_heads=1, head_dim=4)
BLOCK = 5


class Flown:
    """What is read of a runner that has given its cache some observations."""

    def __init__(
        self,
        policy: str,
        observations: int,
        threshold: float = 0.5,
        budget: int = 3 * BLOCK + 3,
        exact: float = math.inf,
    ) -> None:
        torch.manual_seed(0)
        gate = Gate(GateConfig.of(SPEC, width=8, hidden=8)).eval().requires_grad_(False)
        gate.head.weight.mul_(60.0)
        sizes = {"sinks": 0, "recent": 2 * BLOCK, "capacity": 1000, "chunk": BLOCK, "budget": budget}
        made = make_policy(policy, **cast(Any, sizes), gate=gate, threshold=threshold, keep_rate=0.5, exact=exact)
        self.cache, self.chunks = SessionCache(SPEC, made), ChunkLog()
        self.recorded = ChunkLog()
        self.told: list[CacheStats] = []
        self.held: list[tuple[int, ...]] = []
        self.looks = [10 * number for number in range(observations)]
        self.pictures = [np.full((8, 8, 3), 5 * number, np.uint8) for number in range(observations)]
        for _ in range(observations):
            self.cache.append(*torch.randn(2, 2, 1, BLOCK, 4))
            stats = self.cache.stats()
            told = (stats.chunks_kept, stats.chunks_dropped, stats.chunks_evicted, stats.scores)
            self.told.append(stats)
            self.held.append(tuple(number for number, _ in self.cache.kept_chunks()))
            self.chunks.add(*told, self.held[-1])
            self.recorded.add(*told)


@pytest.mark.parametrize("policy", [name for name in POLICY_NAMES if name != "full"])
def test_fates_agree_with_the_cache(policy: str) -> None:
    flown = Flown(policy, 20)
    stats, fates = flown.cache.stats(), flown.chunks.fates()
    assert [each.number for each in fates] == list(range(stats.chunks_kept + stats.chunks_dropped))
    counts = {fate: sum(each.fate is fate for each in fates) for fate in Fate}
    assert counts[Fate.KEPT] == len(flown.cache.kept_chunks())
    assert counts[Fate.DROPPED] == stats.chunks_dropped
    assert counts[Fate.EVICTED] == stats.chunks_evicted
    scores = dict(flown.cache.kept_chunks())
    if flown.cache.policy.scored:
        assert all(each.score == scores[each.number] for each in fates if each.fate is Fate.KEPT)
    else:
        assert {each.score for each in fates} == {None}


@pytest.mark.parametrize("policy", ["window", "gated", "mean", "random"])
def test_a_recording_tells_the_same_fates(policy: str) -> None:
    flown = Flown(policy, 20)
    assert flown.recorded.fates() == flown.chunks.fates()


@pytest.mark.parametrize("recorded", [False, True], ids=["live", "recorded"])
def test_chunks_that_are_kept_word_for_word_are_told_apart(recorded: bool) -> None:
    flown = Flown("gated", 20, threshold=0.0, budget=5 * BLOCK, exact=0.001)
    lengths = flown.cache.snapshot().ledger.lengths
    log = flown.recorded if recorded else flown.chunks
    fates = log.fates(held_exactly(flown.cache.stats(), flown.cache.policy.sizes))
    held = [each for each in fates if each.fate in (Fate.EXACT, Fate.KEPT)]
    assert [each.number for each in held] == [number for number, _ in flown.cache.kept_chunks()]
    assert [each.fate is Fate.EXACT for each in held] == [length == BLOCK for length in lengths]
    assert {1, BLOCK} == set(lengths)
    told = map_of_episode(cast(ClosedLoopRunner, flown), BLOCK, "reach", None).in_words()
    assert "kept word for word" in told and "kept as a summary" in told


def test_the_best_of_an_observations_chunks_counts() -> None:
    fates = [ChunkFate(0, 0.2, Fate.DROPPED), ChunkFate(1, 0.9, Fate.KEPT), ChunkFate(2, None, Fate.EVICTED)]
    told = fates_by_observation(fates, 4, sinks=2, chunk=4, block=5)
    assert told == [(Fate.DROPPED, 0.2), (Fate.KEPT, 0.9), (Fate.EVICTED, None), (Fate.WINDOW, None)]


@pytest.mark.parametrize(
    ("policy", "budget", "held"),
    [("full", 1, True), ("window", 1, False), ("mean", 14, False), ("mean", 40, True), ("gated", 40, True)],
)
def test_whether_the_cue_is_held(policy: str, budget: int, held: bool) -> None:
    memory = CuedReach(3)
    flown = Flown(policy, 8, threshold=0.0, budget=budget)
    assert memory.cue_steps == 10, "the first observation alone sees the lamp"
    outcome = outcome_of(cast(ClosedLoopRunner, flown), BLOCK, memory)
    assert (outcome.cue, outcome.cue_held) == (memory.answer, held)
    assert outcome.observations == 8 and outcome.full_tokens == 8 * BLOCK
    assert outcome.bytes == outcome.tokens * SPEC.bytes_per_token
    everything = held_observations(cast(ClosedLoopRunner, flown), BLOCK)
    assert {6, 7} <= everything
    assert (everything == set(range(8))) == held
    assert outcome_of(cast(ClosedLoopRunner, flown), BLOCK, None).cue is None


@pytest.mark.parametrize(("budget", "held"), [(4 * BLOCK, False), (20 * BLOCK, True)])
def test_a_cue_of_which_one_blink_is_lost_is_not_held(budget: int, held: bool) -> None:
    memory = next(episode for episode in map(Count, range(20)) if episode.answer == 2)
    blinks = [(flash.begin, flash.end) for flash in memory.lamp]
    assert memory.cue_parts == blinks and len(blinks) == 3
    flown = Flown("mean", 11, budget=budget)
    everything = held_observations(cast(ClosedLoopRunner, flown), BLOCK)
    seen = [{number for number, step in enumerate(flown.looks) if begin <= step < end} for begin, end in blinks]
    assert [bool(looks & everything) for looks in seen] == [held, held or bool(seen[1] & everything), True]
    assert outcome_of(cast(ClosedLoopRunner, flown), BLOCK, memory).cue_held == held


def test_the_map_is_a_picture(tmp_path: Path) -> None:
    memory, flown = CuedReach(3, (50, 50)), Flown("gated", 30, threshold=0.001)
    map_of = map_of_episode(cast(ClosedLoopRunner, flown), BLOCK, "cued-reach", memory)
    assert map_of.marks == [(0, "cue"), (1, "wait"), (6, "choice")] and map_of.threshold == 0.001
    assert len(map_of.fates) == 30 and {fate for fate, _ in map_of.fates} == set(Fate) - {Fate.EXACT}
    draw_memory_map(map_of, tmp_path / "map.png")
    drawn = np.asarray(Image.open(tmp_path / "map.png").convert("RGB"))
    for colour in ((26, 127, 55), (208, 215, 222), (191, 135, 0), (9, 105, 218)):
        assert (drawn == colour).all(axis=-1).any(), f"no {colour}: a fate is not drawn"
    folder = tmp_path / "new" / "folder"
    check_picture(folder / "map.png")
    assert folder.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"map.png' cannot be written: "):
        check_picture(tmp_path / "file" / "map.png")
    plain = map_of_episode(cast(ClosedLoopRunner, Flown("window", 5)), BLOCK, "reach", None)
    assert plain.threshold is None and plain.marks == []
    draw_memory_map(plain, tmp_path / "window.png")
    with pytest.raises(ValueError, match="0 pictures of 0 observations"):
        draw_memory_map(MemoryMap("nothing", [], []), tmp_path / "nothing.png")


def drawn(*scores: float | None) -> np.ndarray[Any, Any]:
    """Return the picture of observations with these scores, kept from 0.01 on."""
    fates = [
        (Fate.WINDOW if score is None else Fate.KEPT if score >= 0.01 else Fate.DROPPED, score) for score in scores
    ]
    file = io.BytesIO()
    draw_memory_map(MemoryMap("odds", [b""] * len(fates), fates, 0.01), file)
    return np.asarray(Image.open(file).convert("RGB"))


def test_small_scores_can_be_told_apart_and_a_map_without_any_has_no_empty_axes() -> None:
    """On an even scale 0.02 and 0.009 would both be flat, and with them why one is kept and the other is not."""
    picture = drawn(0.999, 0.02, 0.009, None)
    green, grey = ((picture == colour).all(axis=-1).sum(axis=1) for colour in ((26, 127, 55), (208, 215, 222)))
    bars = picture.shape[0] // 3  # below the pictures
    assert (green[bars:] > 0).sum() > (grey[bars:] > 0).sum() > 20
    assert drawn(None, None).shape[0] == picture.shape[0] // 2
