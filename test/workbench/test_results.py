"""The numbers of a mode on episodes whose answers are known."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from episodes import HORIZON, PREPARE_S, STEP_S, make_episode, stopped_episode
from rich.console import Console

from streaming_vla.workbench.report.markdown import comparison_table, summary_sentences
from streaming_vla.workbench.report.results import aggregate, compare, write_json
from streaming_vla.workbench.report.rows import LOOK, rows, verdict

HALT_MS = 1000 * (PREPARE_S + HORIZON * STEP_S)
HEADLINES = ("success", "episodes", "t_halt_ms", "t_action_ms", "episode_s", "observations_per_s")


def test_synchronous_halts_for_the_whole_preparation() -> None:
    numbers = aggregate([make_episode("synchronous", contexts=8)])
    assert numbers["hand_overs"] == 7 and numbers["executed_actions"] == 80
    assert numbers["t_halt_ms"] == pytest.approx(HALT_MS, abs=0.01)
    assert numbers["t_halt"]["p95"] == pytest.approx(HALT_MS, abs=0.01)
    assert numbers["t_action_ms"] == pytest.approx(50.0 + 7 * HALT_MS / 80, abs=0.01)
    assert numbers["episode_s"] == pytest.approx(8 * (0.5 + HALT_MS / 1000), abs=1e-3)
    assert numbers["observations_per_s"] == pytest.approx(8 / numbers["episode_s"], rel=1e-6)
    expected = {"start": 1, "queue_empty": 7, "early": 0, "max_silence": 0, "last_chance": 0}
    assert numbers["observations"]["by_reason"] == expected


def test_streaming_does_not_halt() -> None:
    numbers = aggregate([make_episode("streaming", contexts=8)])
    assert numbers["t_halt_ms"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["t_halt"]["count"] == 7
    assert numbers["t_action_ms"] == pytest.approx(50.0, abs=1e-6)
    assert numbers["observations"]["by_reason"]["early"] == 7


def test_the_time_before_a_stop_is_halting_and_the_stop_is_told_with_its_cause() -> None:
    numbers = aggregate([stopped_episode(), make_episode("streaming", contexts=2)])
    assert numbers["t_halt"]["count"] == 3 and numbers["hand_overs"] == 2
    assert numbers["t_halt"]["max"] == pytest.approx(3000.0, abs=0.01)
    assert numbers["starved_s"] == pytest.approx(3.0, abs=1e-4)
    assert numbers["t_action_ms"] == pytest.approx(50.0 + 3000.0 / 40, abs=0.01)
    why = "the executor stopped the robot: no action came in time for 3.0 s, action 9 of context 1 is the newest"
    assert (numbers["stopped"], numbers["stops"]) == (1, [why])
    assert numbers["by_episode"][0]["stopped"] == why
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(comparison_table({"streaming": numbers}))
    assert "stopped by the executor" in console.export_text()
    run = {"name": "streaming", "numbers": numbers}
    assert ("bad", f"streaming: 1 of 2 episodes were stopped: {why}. {LOOK}") in verdict([run])
    assert ("stopped by the executor", ["1"]) in rows([run])


def test_stage_latencies_carry_their_counts() -> None:
    stages = aggregate([make_episode(contexts=4), make_episode(contexts=4)])["stages_ms"]
    assert stages["observe"]["count"] == 8 and stages["observe"]["p95"] == pytest.approx(6.0, abs=0.01)
    assert stages["prefill"]["p50"] == pytest.approx(16.0, abs=0.01)
    assert stages["flow_step"]["count"] == 80 and stages["flow_step"]["p99"] == pytest.approx(3.0, abs=0.01)
    assert stages["request_to_context"]["p95"] == pytest.approx(1000 * PREPARE_S, abs=0.01)
    assert stages["observation_age"]["p50"] == pytest.approx(20.0 + HALT_MS, abs=0.01)


def test_time_is_compared_on_the_scenes_that_both_modes_solve() -> None:
    records = [
        make_episode("synchronous", 8, task="door-open"),
        make_episode("synchronous", 2, task="reach"),
        make_episode("streaming", 8, task="door-open"),
        make_episode("streaming", 20, success=False, task="reach"),
    ]
    results = compare(records)
    assert results["synchronous"]["success"] == 2 and results["streaming"]["success"] == 1
    assert results["synchronous"]["episode"]["compared"]["count"] == 1
    assert results["synchronous"]["episode_s"] > results["streaming"]["episode_s"] > 4.0
    assert results["streaming"]["episode"]["all"]["count"] == 2


def test_counters_of_all_episodes_are_added() -> None:
    assert aggregate([make_episode(), make_episode()])["counters"] == {"executor": {"late": 2}, "observer": {}}


def test_an_episode_without_an_action_gives_no_number_instead_of_a_wrong_one() -> None:
    record = make_episode(success=False)
    record.states = record.states[:1]
    numbers = aggregate([record])
    assert numbers["t_halt_ms"] is None and numbers["t_action_ms"] is None and numbers["episode_s"] is None


def test_no_episode_is_an_error() -> None:
    with pytest.raises(ValueError, match="no episode was recorded"):
        aggregate([])


def test_json_has_the_headlines_and_only_finite_numbers(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(compare([make_episode("synchronous"), make_episode("streaming", contexts=1)]), path)
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the JSON file"))
    assert list(read) == ["synchronous", "streaming"]
    for mode in read.values():
        assert set(HEADLINES) <= set(mode)
        assert isinstance(mode["success"], int) and isinstance(mode["episodes"], int)
    assert read["streaming"]["t_halt_ms"] is None  # one context has no hand-over


def test_table_and_sentences_show_both_modes() -> None:
    results = compare([make_episode("synchronous"), make_episode("streaming")])
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(comparison_table(results))
    text = console.export_text()
    assert "1 of 1" in text and "52.0 ms (7 hand-overs)" in text and "0.0 ms (7 hand-overs)" in text
    sentences = " ".join(summary_sentences(results))
    assert "does not halt at all" in sentences and "less time" in sentences
    assert not math.isnan(results["synchronous"]["t_halt_ms"])


def test_a_machine_that_was_too_busy_is_named_before_the_policy() -> None:
    slow, well, late = (make_episode("streaming") for _ in range(3))
    slow.pace, well.pace, late.pace = 0.6, 1.0, 0.99
    late.counters = {"executor": {"late_tick": 40}}
    results = compare([slow, well, late])
    assert results["streaming"]["clock"]["busy_episodes"] == 2
    assert results["streaming"]["clock"]["slowest"] == pytest.approx(0.6)
    [sentence] = [said for said in summary_sentences(results) if "too busy" in said]
    assert "too busy in 2 of 3 episodes" in sentence and "(0.60 at worst)" in sentence and "40 actions" in sentence
    said = verdict([{"name": "streaming", "numbers": results["streaming"]}])
    kinds = {kind for kind, text in said if "too busy" in text}
    assert kinds == {"bad"}
    assert not any("too busy" in said for said in summary_sentences(compare([well])))
    assert compare([make_episode("streaming")])["streaming"]["clock"] is None, "real time has no pace"
