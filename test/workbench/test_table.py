"""Tables on a terminal: no word is cut at any width, and nothing is left out."""

from __future__ import annotations

import io
import re

import pytest
from episodes import make_episode
from rich.console import Console

from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.demo.command import MODES
from streaming_vla.workbench.demo.display import Display
from streaming_vla.workbench.evaluation.policy_report import to_table
from streaming_vla.workbench.report.markdown import comparison_table
from streaming_vla.workbench.report.records import Scene
from streaming_vla.workbench.report.results import compare
from streaming_vla.workbench.table import FittedTable

WIDTHS = range(20, 160, 7)


def shown(width: int, what: object) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def words(text: str) -> set[str]:
    return {word for word in re.split(r"[\s│┃┏┓┗┛┡┩├┤┼┴┬┳╇└┘─━]+", text) if word}


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_of_the_comparison_is_cut(width: int) -> None:
    results = compare([make_episode("synchronous", 30), make_episode("streaming", 30)])
    text = shown(width, comparison_table(results))
    assert words(shown(400, comparison_table(results))) <= words(text) | words(text.replace(":", ""))
    assert "…" not in text
    assert all(len(line) <= max(width, 24) for line in text.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_of_the_evaluation_is_cut(width: int) -> None:
    cache = {"tokens": 82.0, "full_tokens": 1250.0, "cue_held": {"1": [3, 4], "2": [11, 12]}}
    row = {"successes": 48, "episodes": 50, "success": 0.96, "low": 0.865, "high": 0.989, "median_steps": 71.0}
    rows = {task: {**row, "cache": cache} for task in ("button-press-topdown", "peg-insert-side")}
    table = to_table({"per_task": rows, "all": {**row, "cache": cache}})
    text = shown(width, table)
    for word in ("button-press-topdown", "peg-insert-side", "48/50", "0.865", "0.989", "1250", "11/12", "interval"):
        assert word in text
    assert "…" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_of_the_running_demo_is_cut(width: int) -> None:
    display = Display(Console(width=width, file=io.StringIO()), [Scene("door-open", HELD_OUT_SEED)], tuple(MODES))
    display.finish(make_episode("synchronous"))
    text = shown(width, display)
    for word in ("synchronous:", "streaming:", "door-open,", "T_action", "52.0"):
        assert word in text


def test_a_column_gets_what_its_words_need_and_a_share_of_the_rest() -> None:
    table = FittedTable(["", "a"], [["name", "one two three four five six seven eight"]])
    assert len(shown(60, table).splitlines()) == 5, "it fits into a line"
    narrow = shown(24, table)
    assert len(narrow.splitlines()) > 5 and "┃" in narrow
    assert shown(12, table).startswith("name\n  a: one")
