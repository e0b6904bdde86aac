"""The study's kept episodes: what is there is not run again, and other parameters or weights are other cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cells as virtual_cells
import pytest
import torch
from cells import MOVED, MOVED_TASK, Cell, Cells, Models, memory_cache
from strategies import STRATEGIES, changed
from study import MovedGoalRun

from kv_cache import CacheSpec, Gate, GateConfig
from kv_cache.gate_file import save_gate
from streaming_vla.policies.models import AUTO
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.evaluation.cache_options import NEWEST_ONLY, CacheOptions, gated_cache
from streaming_vla.workbench.virtual.runs import VirtualRun

CELL = Cell("ours", STRATEGIES["ours"], "paper", "reach", 3)


def write_gate(path: Path, seed: int) -> Path:
    """Write a gate that was trained for windows of two observations, and return its file."""
    torch.manual_seed(seed)
    sizes = {"sinks": 0, "recent": 50, "chunk": 25}
    save_gate(path, Gate(GateConfig.of(CacheSpec(1, 1, 4))), 0.5, {"plan": {"cache": sizes}})
    return path


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cells, list[int]]:
    """Return cells whose episodes cost nothing, and the seeds that were run; the third one fails the first time."""
    ran: list[int] = []

    def run_all(jobs: list[Any], measure: object, processes: int, again: str) -> Any:
        for key, job in jobs:
            ran.append(job.seed)
            if len(ran) == 3:
                raise KeyboardInterrupt
            yield key, {"seed": job.seed}

    monkeypatch.setattr(virtual_cells, "run_all", run_all)
    return Cells(tmp_path, Models("compact_mt10", "")), ran


def test_a_study_that_was_stopped_goes_on_and_can_grow(made: tuple[Cells, list[int]]) -> None:
    cells, ran = made
    with pytest.raises(KeyboardInterrupt):
        cells.run(cells.missing([CELL]), 1, lambda cell: None)
    assert len(cells.rows(CELL)) == 2, "what was done is kept"
    cells.run(cells.missing([CELL]), 1, lambda cell: None)
    assert [row["seed"] - HELD_OUT_SEED for row in cells.rows(CELL)] == [0, 1, 2]
    more = replace(CELL, episodes=5)
    cells.run(cells.missing([more]), 1, lambda cell: None)
    assert [seed - HELD_OUT_SEED for seed in ran] == [0, 1, 2, 2, 3, 4]
    assert len(cells.rows(more)) == 5 and len(cells.rows(CELL)) == 3, "fewer episodes are the first of them"


def test_other_parameters_tasks_and_weights_are_other_cells() -> None:
    slower = changed(STRATEGIES["ours"], {"monitor": {"early_actions": 2}})
    others = [replace(CELL, setup=slower), replace(CELL, task="push"), replace(CELL, profile="jetson")]
    names = {cell.file_name(models) for cell in (CELL, *others) for models in ("a", "b")}
    assert len(names) == 8
    assert replace(CELL, episodes=50).file_name("a") == CELL.file_name("a")


def test_another_cache_or_gate_is_another_cell(tmp_path: Path) -> None:
    gate = write_gate(tmp_path / "own_gate.safetensors", seed=0)
    recalling = replace(CELL, task="count", cache=gated_cache(gate, 256))
    caches = [CacheOptions("full"), replace(recalling.cache, budget=128), NEWEST_ONLY]
    names = [cell.file_name("a") for cell in (recalling, *(replace(recalling, cache=cache) for cache in caches))]
    write_gate(gate, seed=1)
    assert len({*names, recalling.file_name("a")}) == 5, "the gate's numbers count, not its name"


def test_memory_tasks_keep_what_the_gate_of_the_policy_keeps(tmp_path: Path) -> None:
    policy = tmp_path / "own.safetensors"
    policy.touch()
    assert memory_cache(str(policy), AUTO) == CacheOptions("full"), "no gate of its name"
    gate = write_gate(tmp_path / "own_gate.safetensors", seed=0)
    found = memory_cache(str(policy), AUTO)
    assert (found.policy, found.sinks, found.recent, found.chunk, found.budget) == ("gated", 0, 50, 25, 82)
    assert found.gate == str(gate) and memory_cache("compact_mt10", str(gate)) == found
    assert memory_cache(str(policy), "") == CacheOptions("full")
    with pytest.raises(ValueError, match="model 'unheard_of' is unknown"):
        memory_cache(str(policy), "unheard_of")


def test_an_episode_is_flown_with_the_cache_of_its_cell() -> None:
    cell = replace(CELL, task="count", cache=CacheOptions("full"))
    assert cell.needs_memory and not CELL.needs_memory
    assert cell.job(HELD_OUT_SEED, Models("compact_mt10")).cache == CacheOptions("full")
    assert CELL.job(HELD_OUT_SEED, Models("compact_mt10")).cache == NEWEST_ONLY


def test_the_moved_goal_is_one_of_reach() -> None:
    job = replace(CELL, task=MOVED).job(HELD_OUT_SEED, Models("compact_mt10"))
    assert isinstance(job, MovedGoalRun) and job.task == MOVED_TASK
    assert type(CELL.job(HELD_OUT_SEED, Models("compact_mt10"))) is VirtualRun
