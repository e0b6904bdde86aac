"""The memory of an episode in the report: the map from a record's counts, or why there is none."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
from PIL import Image
from test_memory_map import BLOCK, Flown

from kv_cache.gate_file import save_gate
from kv_cache.policies.gated import Gated
from streaming_vla.engine.options import CacheOptions, InferenceOptions
from streaming_vla.workbench.evaluation.chunk_log import Fate
from streaming_vla.workbench.evaluation.closed_loop_runner import ClosedLoopRunner
from streaming_vla.workbench.evaluation.memory_map import map_of_episode, map_of_record
from streaming_vla.workbench.report.memory_series import WITHOUT_SUMMARIES, block_of, memory_series
from streaming_vla.workbench.report.records import CacheAt, EpisodeRecord

DEFAULTS = InferenceOptions()


def record_of(flown: Flown, told: bool = True) -> EpisodeRecord:
    """Return what is recorded of a flight; `told`: which chunks are held is known, as in a replay."""
    record = EpisodeRecord("replay", "bag", 0, "open the drawer", 1, 0.05, begin_s=100.0, end_s=130.0)
    for number, (stats, held) in enumerate(zip(flown.told, flown.held, strict=True)):
        record.cache.append(CacheAt.of(stats, 101.0 + number, 2 * number, held if told else None))
        record.pictures[2 * number] = bytes(cv2.imencode(".jpg", np.full((32, 32, 3), 5 * number, np.uint8))[1])
    return record


def parameters(flown: Flown, folder: Path) -> InferenceOptions:
    """Return the options of an inference node with that cache."""
    policy = cast(Gated, flown.cache.policy)
    save_gate(folder / "gate.safetensors", policy.gate, policy.threshold, {})
    sizes = {"cache_recent": policy.recent, "cache_chunk": policy.chunk, "cache_budget": policy.budget}
    return DEFAULTS.changed(cache_policy="gated", cache_gate=str(folder / "gate.safetensors"), **sizes)


@pytest.mark.parametrize("told", [True, False])
def test_a_record_gives_the_map_of_its_cache(tmp_path: Path, told: bool) -> None:
    flown = Flown("gated", 30, threshold=0.001)
    record = record_of(flown, told)
    expected = map_of_episode(cast(ClosedLoopRunner, flown), BLOCK, "bag", None)
    map_of = map_of_record(record, flown.cache.policy, BLOCK)
    fates = set(Fate) - {Fate.EXACT}
    assert map_of.fates == expected.fates and {fate for fate, _ in map_of.fates} == fates
    series = memory_series(record, parameters(flown, tmp_path))
    drawn = Image.open(io.BytesIO(base64.b64decode(series["memory_map"]["data"])))
    assert drawn.format == "PNG" and drawn.width > 1500
    about = series["memory_map"]["about"]
    for fate in fates:
        assert f"{sum(own is fate for own, _ in expected.fates)} {fate.value} (" in about
    assert about.startswith("Memory map of 30 observations") and "kept from 0.001 on" in about
    stats = flown.cache.stats()
    assert series["kv_bytes"][-1] == [30.0, stats.bytes] and series["kv_full_bytes"][-1][1] == stats.full_bytes
    assert series["chunks_kept"][-1][1] == stats.chunks_kept


def test_messages_that_were_not_heard_leave_gaps(tmp_path: Path) -> None:
    flown = Flown("gated", 12, threshold=0.0)
    record = record_of(flown)
    for number in (0, 4, 5):
        del record.pictures[record.cache[number].sequence]
    record.cache = [at for number, at in enumerate(record.cache) if number not in (0, 4, 5)]
    assert block_of(record.cache) == BLOCK
    map_of = map_of_record(record, flown.cache.policy, BLOCK)
    assert [number for number, picture in enumerate(map_of.pictures) if not len(picture)] == [0, 4, 5]
    assert [fate for fate, _ in map_of.fates] == [
        fate for fate, _ in map_of_episode(cast(ClosedLoopRunner, flown), BLOCK, "bag", None).fates
    ]
    assert memory_series(record, parameters(flown, tmp_path))["memory_map"]["data"]


@pytest.mark.parametrize(
    ("policy", "sinks", "sentence"),
    [
        ("window", 0, "(cache_policy window): at the end it held 10 of 40 tokens as they were, the newest ones."),
        ("window", 3, "as they were, the first 3 and the newest ones."),
        ("full", 0, "(cache_policy full): at the end it held 40 of 40 tokens as they were, all of them."),
    ],
)
def test_without_a_choice_there_is_a_sentence(policy: str, sinks: int, sentence: str) -> None:
    flown = Flown(policy, 8)
    assert policy in WITHOUT_SUMMARIES and not flown.cache.policy.sizes.summaries
    series = memory_series(record_of(flown), DEFAULTS.changed(cache_policy=policy, cache_sinks=sinks))
    assert sentence in series["memory_map"]["about"] and set(series["memory_map"]) == {"about"}
    assert memory_series(EpisodeRecord("replay", "bag", 0, "", 1, 0.05, 0.0), DEFAULTS) == {}


def test_every_policy_with_summaries_has_a_map() -> None:
    for name in set(CacheOptions.declared["cache_policy"].choices) - set(WITHOUT_SUMMARIES):
        flown = Flown(name, 12)
        assert flown.cache.policy.sizes.summaries
        map_of = map_of_record(record_of(flown), flown.cache.policy, BLOCK)
        assert len(map_of.fates) == 12 and f"cache {name}: " in map_of.title
