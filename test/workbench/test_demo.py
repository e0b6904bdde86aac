"""What the demo decides and shows without ROS: its options, its pictures' episodes and its plain output."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from episodes import make_episode, stopped_episode
from rich.console import Console

from streaming_vla.parameters.nodes import NODES
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.demo.command import MODES, _present, representative_pair
from streaming_vla.workbench.demo.display import Display
from streaming_vla.workbench.demo.options import DemoOptions
from streaming_vla.workbench.demo.settings import settings_for
from streaming_vla.workbench.report.records import CacheAt, EpisodeRecord, Scene
from streaming_vla.workbench.robots import ROBOTS


def test_defaults_are_a_spread_of_tasks_with_held_out_seeds() -> None:
    options = DemoOptions()
    assert len(set(options.shown.tasks)) >= 5 and options.seed == HELD_OUT_SEED
    assert options.out == Path("out/demo")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"tasks": ("juggle",)}, "unknown task 'juggle': choose one of reach"),
        ({"episodes": 0}, "--episodes is 0, expected at least 1"),
        ({"seed": -1}, "--seed is -1, expected 0 to"),
        ({"time_limit_s": 0.0}, "--time-limit is 0 s, expected more than 0"),
        ({"params_file": Path("no.yaml")}, "no.yaml"),
        ({"robot": "so101", "tasks": ("reach",)}, "unknown task 'reach': choose one of touch"),
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DemoOptions(**wrong)


def test_each_robot_is_shown_as_its_parameter_file_says(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trained policy for robot so101 is shipped"):
        DemoOptions(robot="so101")
    options = DemoOptions(robot="so101", model="python:nobody:factory")
    assert options.suite.inference.model == "python:nobody:factory"
    assert options.suite.observer.cameras == ("overhead", "wrist")
    assert options.limit_s("push") == 20.0 and DemoOptions().limit_s("reach") == 12.0
    settings, period_s = settings_for(options.shown, options.suite, "jetson", model=options.model)
    assert period_s == pytest.approx(1 / 30, abs=1e-5), "an arm in real time keeps its rate"
    assert settings["inference"] == {"model": options.model, "latency_profile": "jetson"}
    assert settings["sim_robot"] == {"robot": "so101"}
    slow = tmp_path / "slow.yaml"
    slow.write_text("{/**: {ros__parameters: {control_period_s: 0.1}}}")
    settings, period_s = settings_for(ROBOTS["metaworld"], DemoOptions(params_file=slow).suite)
    assert period_s == 0.1 and settings["sim_robot"]["real_time_factor"] == pytest.approx(0.125)


def test_the_modes_set_parameters_that_exist_are_live_and_in_range() -> None:
    for settings in MODES.values():
        for node, values in settings.items():
            assert NODES[node].refusals(values) == []
            assert all(NODES[node].declared[name].live for name in values)


def _pair(task: str, contexts: int, success: bool) -> list[EpisodeRecord]:
    return [make_episode(mode, contexts, success, task) for mode in MODES]


def test_the_timeline_shows_a_scene_that_both_modes_solve() -> None:
    records = [*_pair("reach", 4, False), *_pair("push", 4, True), *_pair("door-open", 1, True)]
    pair = representative_pair(records)
    assert pair is not None
    assert [record.task for record in pair] == ["push", "push"]
    assert [record.mode for record in pair] == ["synchronous", "streaming"]
    assert representative_pair(_pair("door-open", 1, True)) is None


def test_the_report_tells_what_the_cache_held(tmp_path: Path) -> None:
    records = _pair("door-open", 2, True)
    for record in records:
        grown = [CacheAt(record.begin_s + n, n, "window", 25, 9e3, 25 * (n + 1), 9e3, 0, n, 0, ()) for n in range(3)]
        record.cache = grown
    _present(records, Console(file=io.StringIO()), DemoOptions(out=tmp_path))
    html = (tmp_path / "report.html").read_text()
    for mode in MODES:
        assert (
            f"<p>{mode}: The cache keeps no chunks by score (cache_policy window): at the end it held 25 of 75 tokens "
            "as they were, the newest ones.</p>"
        ) in html
    assert 'aria-label="KiB over time"' in html


def test_the_report_knows_the_cache_of_the_parameter_file(tmp_path: Path) -> None:
    params_file = tmp_path / "full.yaml"
    params_file.write_text("{inference: {ros__parameters: {cache_policy: full}}}")
    records = _pair("door-open", 2, True)
    for record in records:
        record.cache = [CacheAt(record.begin_s, 0, "full", 25, 9e3, 25, 9e3, 0, 0, 0, ())]
    _present(records, Console(file=io.StringIO()), DemoOptions(out=tmp_path, params_file=params_file))
    assert "(cache_policy full): at the end it held 25 of 25 tokens" in (tmp_path / "report.html").read_text()


def test_without_a_terminal_every_episode_is_one_line() -> None:
    console = Console(file=io.StringIO(), width=100)
    with Display(console, [Scene("door-open", 10_000)], tuple(MODES)) as display:
        for record in _pair("door-open", 4, True):
            display.update(record)
            display.finish(record)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert "synchronous" in lines[0] and "T_halt 52.0 ms" in lines[0] and "1 of 1" in lines[0]
    assert "streaming" in lines[1] and "T_halt 0.0 ms" in lines[1]


def test_a_stop_is_told_with_its_cause_in_the_lines_and_the_report(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    record = stopped_episode()
    with Display(console, [Scene("door-open", 10_000)], tuple(MODES)) as display:
        display.finish(record)
    line = console.file.getvalue()  # type: ignore[attr-defined]
    assert "stopped" in line and "no action came in time for 3.0 s" in line and "no success" not in line
    _present([record, stopped_episode("synchronous")], console, DemoOptions(out=tmp_path))
    html = (tmp_path / "report.html").read_text()
    assert "1 of 1 episodes were stopped: the executor stopped the robot: no action came in time for 3.0 s" in html
    assert "It ended with a stop: the executor stopped the robot" in html
    assert len(list((tmp_path / "filmstrips").iterdir())) == 2


def test_on_a_terminal_the_table_shows_both_modes() -> None:
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    display = Display(console, [Scene("door-open", 10_000)], tuple(MODES))
    records = _pair("door-open", 4, True)
    display.finish(records[0])
    display.update(records[1])
    console.print(display)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "synchronous: 1 of 1 succeeded" in text and "streaming: 0 of 0 succeeded" in text
    assert "open the door" in text
