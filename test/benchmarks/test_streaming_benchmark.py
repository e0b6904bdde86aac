"""The study's command: which cells a plan has, its lines, and a picture that can be read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cells import MOVED, Cell
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from strategies import STRATEGIES
from typer.testing import CliRunner

from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.tasks import TASKS
from streaming_vla.workbench.evaluation.cache_options import NEWEST_ONLY, CacheOptions
from streaming_vla.workbench.report.statistics import wilson_interval

FOLDER = Path(__file__).parents[2] / "benchmarks" / "streaming"
KEPT = CacheOptions("full")


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """The command's module."""
    sys.path.insert(0, str(FOLDER))
    yield import_module("run")
    sys.path.remove(str(FOLDER))
    for name in ("run", "plots"):
        del sys.modules[name]


def cells(study: ModuleType, plan: str, **asked: Any) -> list[Cell]:
    """Return the cells of what was asked for of a plan."""
    given = {"strategies": "", "profiles": "", "tasks": "", "episodes": None} | asked
    found: list[Cell] = study.cells_of(study.chosen(plan, **given), STRATEGIES, KEPT)
    return found


def test_the_claims_have_the_memory_tasks_and_these_alone_keep_their_history(study: ModuleType) -> None:
    found = cells(study, "claims")
    recalling = [cell for cell in found if cell.needs_memory]
    assert {(cell.strategy, cell.profile, cell.episodes) for cell in recalling} == {
        ("ours", "paper", 20), ("synchronous_10", "paper", 20),
    }  # fmt: skip
    assert {cell.task for cell in recalling} == set(MEMORY_TASKS) and len(recalling) == 2 * len(MEMORY_TASKS)
    others = [cell for cell in found if not cell.needs_memory]
    assert {cell.task for cell in others} == {*TASKS, MOVED}
    assert {cell.cache for cell in recalling} == {KEPT} and {cell.cache for cell in others} == {NEWEST_ONLY}
    assert len({(cell.strategy, cell.profile, cell.task) for cell in found}) == len(found), "the most episodes of each"


def test_everything_is_everything(study: ModuleType) -> None:
    tasks = {cell.task for cell in cells(study, "full")}
    assert tasks == {*TASKS, MOVED, *MEMORY_TASKS}
    assert len(cells(study, "full")) == len(STRATEGIES) * len(study.PROFILES) * len(tasks)


def test_options_choose_from_a_plan(study: ModuleType) -> None:
    found = cells(study, "full", strategies="ours,afm", profiles="jetson", tasks="count,reach", episodes=3)
    assert {cell.task for cell in found} == {"count", "reach", MOVED} and len(found) == 6
    assert {cell.episodes for cell in found} == {3}
    assert {cell.task for cell in cells(study, "claims", tasks="memory")} == set(MEMORY_TASKS)


def test_what_no_plan_has_is_refused_before_anything_is_run(study: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plan 'claims' runs no such strategy"):
        cells(study, "claims", tasks="memory", profiles="jetson")
    app = study.typer.Typer()
    app.command()(study.main)
    asked = ["--gate", "unheard_of", "--cells", str(tmp_path / "cells"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1 and "model 'unheard_of' is unknown" in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


def test_a_line_is_of_one_strategy_and_profile_with_its_moved_goal_apart(study: ModuleType) -> None:
    class Kept:
        """One episode of every cell, successful where the goal stays."""

        def rows(self, cell: Cell) -> list[dict[str, Any]]:
            """Return it."""
            row = {"task": cell.task, "success": cell.task != MOVED, "executed": 100, "starved_s": 1.0, "seconds": 6.0}
            row |= {"observations": 10, "halts_ms": [100.0], "jumps": [0.1], "work": {}, "jerk": 1.0}
            return [row | {"reaction_ms": 50.0 if cell.task == MOVED else float("nan")}]

    found = cells(study, "full", strategies="ours,afm", profiles="paper,jetson")
    lines = [study.summarise([cell for cell in found if cell.needs_memory is it], Kept(), {}) for it in (False, True)]
    assert [(line["strategy"], line["profile"]) for line in lines[0]] == [
        ("afm", "paper"), ("afm", "jetson"), ("ours", "paper"), ("ours", "jetson"),
    ]  # fmt: skip
    assert {(line["tasks"], line["cache"], line["episodes"]) for line in lines[0]} == {("MT10", "window", 10)}
    assert {(line["tasks"], line["cache"], line["episodes"]) for line in lines[1]} == {("memory", "full", 3)}
    assert {line["success"] for line in lines[0]} == {1.0} and lines[0][0]["reaction_ms"] == 50.0
    assert lines[1][0]["reaction_ms"] is None


def line(strategy: str, profile: str, t_halt_ms: float | None, good: int, episodes: int) -> dict[str, Any]:
    """Return what is drawn of a line of the results."""
    low, high = wilson_interval(good, episodes)
    found = {"strategy": strategy, "profile": profile, "t_halt_ms": t_halt_ms, "success": good / episodes}
    return found | {"success_low": low, "success_high": high}


@pytest.mark.parametrize("alike", [True, False])
def test_names_in_the_picture_overlap_neither_each_other_nor_its_edges(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alike: bool
) -> None:
    plots = sys.modules["plots"]
    figures: list[Figure] = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    rows = [
        line(name, profile, 0.0 if alike else 30.0 * number, 6 if alike else number % 7, 6)
        for profile in study.PROFILES[:3]
        for number, name in enumerate(STRATEGIES)
    ]
    plots.draw_pareto([*rows, line("ours", "remote_wifi", None, 0, 6)], tmp_path / "pareto.png")
    (figure,) = figures
    assert (tmp_path / "pareto.png").stat().st_size > 10_000
    drawn = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title(loc="left").split(":")[0] for axis in drawn] == list(study.PROFILES[:3])
    for axis in drawn:
        names = [text for text in axis.texts if isinstance(text, Annotation) and text.get_text()]
        assert {name.get_text() for name in names} == set(plots.NAMED)
        boxes = [name.get_window_extent() for name in names]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        assert all(axis.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1 for box in boxes)
        assert all(axis.bbox.y0 < box.y0 and box.y1 < axis.bbox.y1 for box in boxes)


def test_nothing_is_drawn_of_strategies_that_never_handed_over(study: ModuleType, tmp_path: Path) -> None:
    sys.modules["plots"].draw_pareto([line("ours", "paper", None, 0, 6)], tmp_path / "pareto.png")
    assert list(tmp_path.iterdir()) == []
