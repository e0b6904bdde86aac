"""The benchmark of the cache in closed loop: what is measured beside a gate, and how episodes are told apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.models import find_model
from streaming_vla.workbench.evaluation.cache_options import gated_cache

FOLDER = Path(__file__).parents[2] / "benchmarks" / "kv_cache"
OURS = ("every_chunk", "memory", "ten_hours", "plots")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The command's module."""
    sys.path.insert(0, str(FOLDER))
    yield import_module("memory")
    sys.path.remove(str(FOLDER))
    for name in OURS:
        sys.modules.pop(name, None)


def row(seed: int, success: bool, **values: Any) -> dict[str, Any]:
    """Return an episode that was measured."""
    held = {"tokens": 57, "bytes": 570, "allocated_bytes": 900, "full_tokens": 2850, "kept": 3, "dropped": 97}
    return {"seed": seed, "success": success, "evicted": 0, "cue": seed % 2, "cue_held": True, **held, **values}


GATED = CacheOptions(
    cache_policy="gated", cache_recent=50, cache_chunk=25, cache_budget=82, cache_gate="gate.safetensors"
)


def test_others_get_as_much_as_the_gate_holds(benchmark: ModuleType) -> None:
    rows = [row(0, True, tokens=56, kept=2, dropped=98), row(1, True)]
    window, chance = (benchmark.beside(name, GATED, rows) for name in ("window", "random"))
    assert window.cache_recent == 57 and window.cache_gate == "", "56.5 tokens on average"
    assert chance.cache_keep_rate == pytest.approx(5 / 200) and chance.cache_budget == 82
    for name in ("full", "mean"):
        assert benchmark.beside(name, GATED, rows).cache_budget == benchmark.EVERYTHING
    for name in ("attention", "expected"):
        assert benchmark.beside(name, GATED, rows) == GATED.changed(cache_policy=name, cache_gate="")


def test_figures_of_rows(benchmark: ModuleType) -> None:
    rows = [row(0, True), row(1, False), row(2, True, cue_held=False), row(3, True)]
    found = benchmark.figures(rows)
    assert (found["success"], found["episodes"], found["memory_factor"]) == (0.75, 4, 50.0)
    assert found["low"] < 0.75 < found["high"]
    assert benchmark.cue_kept(rows) == {"0": 0.5, "1": 1.0}
    full = [row(0, False), row(1, True), row(2, False), row(3, True)]
    assert benchmark.paired({"gated": rows, "full": full}) == {"gated_only": 2, "full_only": 1}
    assert benchmark.paired({"gated": rows, "full": full[:2]}) == {"gated_only": 1, "full_only": 1}
    assert benchmark.paired({"gated": rows}) == {"gated_only": 0, "full_only": 0}


def test_finished_episodes_are_not_run_again_and_others_are_not_taken_for_them(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, path = find_model("compact_mt10"), tmp_path / "episodes.jsonl"
    condition = benchmark.Condition("count", "full", CacheOptions(cache_policy="full"), (50, 50))
    asked: list[int] = []
    monkeypatch.setattr(benchmark, "evaluate", lambda _policy, trials, *_: asked.extend(t.seed for t in trials) or ())
    key = condition.key(benchmark.Episodes(path, policy, 1)._weights)
    path.write_text("".join(json.dumps({"key": key, **row(seed, True)}) + "\n" for seed in range(3)))
    assert len(benchmark.Episodes(path, policy, 1).run(condition, range(3))) == 3 and not asked
    other = benchmark.Condition("count", "full", CacheOptions(cache_policy="full"), (60, 60))
    with pytest.raises(KeyError):  # nothing was found by the patched run
        benchmark.Episodes(path, policy, 1).run(other, range(2))
    assert asked == [0, 1]


def test_nothing_is_dropped_in_the_training_of_every_chunk(benchmark: ModuleType) -> None:
    every = import_module("every_chunk")
    draw = every.EveryChunk.draw(None, torch.Generator())
    assert bool(draw(torch.full((2, 5), -9.0)).keep.all())


def test_committed_results_are_of_the_kept_episodes(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of the weights that results.json names, which need not be those that are shipped."""
    results = json.loads((FOLDER / "results.json").read_text())
    of = results["memory_weights"]
    monkeypatch.setattr(benchmark, "file_digest", lambda file: of["policy"])
    monkeypatch.setattr(benchmark, "with_gate_digest", lambda cache: cache.changed(cache_gate=of["gate"][:16]))
    monkeypatch.setattr(benchmark, "evaluate", lambda file, trials, *how: trials and pytest.fail("one is not kept"))
    runs = benchmark.Episodes(FOLDER / "memory_episodes.jsonl", find_model("compact_mt10"), 1)
    cache = gated_cache(find_model("compact_mt10_gate"), 82)
    for task, caches in results["memory_tasks"].items():
        rows = runs.run(benchmark.Condition(task, "gated", cache, (1000, 1000)), range(10000, 10100))
        assert benchmark.figures(rows) == caches["gated"]
