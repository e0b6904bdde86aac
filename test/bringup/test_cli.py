"""The command `streaming-vla`: what it refuses, and what it hands on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streaming_vla.cli import app

pytestmark = pytest.mark.ros


def call(*arguments: str) -> tuple[int, str]:
    """Return the exit code of the command and what it has said."""
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["demo", "--tasks", "nonsense"], "unknown task 'nonsense': choose one of reach"),
        (["demo", "--task", "reach", "--task", "fly"], "unknown task 'fly': choose one of reach"),
        (["demo", "--episodes", "0"], "--episodes is 0, expected at least 1"),
        (["demo", "--profile", "abacus"], "latency profile 'abacus' is unknown: choose one of"),
        (
            ["demo", "--out", "/dev/null/demo"],
            "cannot write into folder '/dev/null/demo': Not a directory; choose another",
        ),
        (["up", "--namespace", "1 arm"], "namespace '1 arm' is not a ROS namespace"),
        (["up", "--params-file", "/none.yaml"], "/none.yaml: the parameter file cannot be read"),
        (["record", "--namespace", "1 arm"], "namespace '1 arm' is not a ROS namespace"),
        (["record", "--params-file", "/none.yaml"], "/none.yaml: the parameter file cannot be read"),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments: Sequence[str], sentence: str) -> None:
    code, said = call(*arguments)
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith("streaming-vla") and sentence in last
    assert "Traceback" not in said


INTERRUPTED = """
import sys
from streaming_vla import __main__, cli

@cli.app.command()
def wait() -> None:
    raise KeyboardInterrupt

sys.argv = ["streaming-vla", "wait"]
__main__.main()
"""


def test_a_command_that_is_interrupted_says_so_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "streaming-vla: stopped by Ctrl-C\n")


@pytest.mark.parametrize("name", ["y", "12", "off", "Übung #1: 'a' 📦", "2026-01-01"])
@pytest.mark.parametrize("namespace", ["/", "arm"])
def test_what_is_asked_for_reaches_the_recorder_and_wins_over_the_parameter_file(
    name: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rclpy

    wanted = ("bag_folder", "bag_name", "include", "compression")
    values: dict[str, Any] = {}

    def run_recorder(arguments: list[str]) -> None:
        context = rclpy.Context()
        rclpy.init(args=arguments, context=context)
        try:
            node: Any = rclpy.create_node(
                "recorder", context=context, automatically_declare_parameters_from_overrides=True
            )
            values.update({key: node.get_parameter(key).value for key in wanted})
            node.destroy_node()
        finally:
            rclpy.try_shutdown(context=context)

    monkeypatch.setattr("streaming_vla.ros.nodes.recorder.main", run_recorder)
    params = tmp_path / "my_robot.yaml"
    params.write_text(
        "/**/recorder: {ros__parameters: {bag_name: other, bag_folder: elsewhere, include: ['/x'], compression: lz4}}"
    )
    command = ["record", "--params-file", str(params), "--namespace", namespace]
    code, said = call(*command, "--out", str(tmp_path / name), "--include", r"/a\d", "--include", "no")
    assert code == 0, said
    assert values == {
        "bag_folder": str(tmp_path), "bag_name": name, "include": [r"/a\d", "no"], "compression": "lz4"
    }  # fmt: skip
