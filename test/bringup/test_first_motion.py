"""The how-to of the first motion: its commands, options, parameters and topics are those that there are."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from streaming_vla.cli import app
from streaming_vla.machines.executor_options import PREVIEW, ExecutorOptions
from streaming_vla.policies.layout import ActionLayout

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "first-motion.md").read_text(encoding="utf-8")
LINES = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
GOLDEN = ROOT / "test" / "policies" / "lerobot" / "golden" / "smolvla"


def options_of(command: str) -> set[str]:
    return {option for parameter in COMMANDS[command].params for option in parameter.opts}


def of(*words: str) -> list[list[str]]:
    """Return the words of every command line that begins so."""
    lines = [shlex.split(line) for line in LINES]
    return [line for line in lines if line[: len(words)] == list(words)]


def test_every_line_is_looked_at_by_a_test_of_this_file() -> None:
    known = [
        of("streaming-vla"),
        of("ros2", "service", "call"),
        of("ros2", "topic", "echo"),
        of("ros2", "param", "set"),
    ]
    assert sum(map(len, known)) == len(LINES) == 10


@pytest.mark.parametrize("line", of("streaming-vla"), ids=" ".join)
def test_commands_and_their_options_are_there(line: list[str]) -> None:
    told = {word for word in line[2:] if word.startswith("-")}
    assert line[1] in COMMANDS and told <= options_of(line[1])


def test_options_of_the_table_are_those_of_new_robot() -> None:
    table = PAGE.partition("| not clear |")[2].partition("\n\n")[0]
    told = set(re.findall(r"`(--[a-z-]+)", table))
    assert len(told) > 7 and told <= options_of("new-robot")
    text = PAGE.replace(table, "")
    for option in re.findall(r"`(--[a-z-]+)", text):
        assert any(option in options_of(command) for command in ("new-robot", "replay")), option


def test_the_doctor_finds_the_model_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="no release of it is for Python 3.10")
    shutil.copytree(GOLDEN, tmp_path / "my_policy")
    monkeypatch.chdir(tmp_path)
    [line] = [each for each in of("streaming-vla", "doctor") if "--model" in each]
    ended = CliRunner().invoke(app, line[1:])
    assert ended.exit_code == 0 and "cameras top, wrist, state 6" in ended.stdout, ended.output


@pytest.mark.parametrize("line", of("ros2", "param", "set"), ids=" ".join)
def test_what_is_set_while_it_runs_is_taken(line: list[str]) -> None:
    node, name, value = line[3:]
    assert node == "/executor" and ExecutorOptions.declared[name].live
    limits = {name: (-1.0,) * 6 for name in ("action_low", "action_initial")} | {"action_high": (1.0,) * 6}
    arm = ExecutorOptions(
        action_names=tuple("abcdef"), action_absolute=(True,) * 6, scale=(1.0,) * 6, velocity_limit=(1.0,) * 6,
        jump_limit=(1.0,) * 6, maximum_lead=(0.3,) * 6, keep_when_stopped=(False,) * 6, **limits,
    )  # fmt: skip
    assert isinstance(arm.layout, ActionLayout)
    found: tuple[float, ...] = tuple(yaml.safe_load(value))
    assert getattr(arm.changed(**{name: found}), name) == found


def test_parameters_and_topics_have_the_names_that_there_are() -> None:
    assert of("ros2", "topic", "echo") == [["ros2", "topic", "echo", "/command" + PREVIEW]]
    for name in re.findall(r"`([a-z]+_(?:limit|lead|s|run|topic))`", PAGE):
        if name not in ("held_s", "starved_s"):  # fields of execution_state
            assert name in ExecutorOptions.declared, name


@pytest.mark.ros
def test_the_service_is_asked_as_it_wants() -> None:
    service: Callable[..., object] = pytest.importorskip("streaming_vla_interfaces.srv").StartEpisode
    from streaming_vla_interfaces.msg import ExecutionState

    [line] = of("ros2", "service", "call")
    assert line[3:5] == ["/start_episode", "streaming_vla_interfaces/srv/StartEpisode"]
    fields = service.Request.get_fields_and_field_types()  # type: ignore[attr-defined]
    assert set(yaml.safe_load(line[5])) <= set(fields)
    assert {"held_s", "starved_s", "dry_run"} <= set(ExecutionState.get_fields_and_field_types())
