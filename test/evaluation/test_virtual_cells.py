"""The study's kept episodes: what is there is not run again, and other parameters or weights are other cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streaming_vla.evaluation import virtual_cells
from streaming_vla.evaluation.virtual_cells import MOVED, MOVED_TASK, Cell, Cells, Models
from streaming_vla.evaluation.virtual_strategies import STRATEGIES, changed
from streaming_vla.robots.tasks import HELD_OUT_SEED

CELL = Cell("ours", STRATEGIES["ours"], "paper", "reach", 3)


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


def test_the_moved_goal_is_one_of_reach() -> None:
    job = replace(CELL, task=MOVED).job(HELD_OUT_SEED, Models("compact_mt10"))
    assert job.moved and job.task == MOVED_TASK
