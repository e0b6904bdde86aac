"""`streaming-vla serve` as a process of its own: without ROS, ended by Ctrl-C, killed and started again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Client, request_of
from policies import SPEC
from typer.main import get_command
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed

from streaming_vla.cli import app
from streaming_vla.parameters.load import read
from streaming_vla.policies.remote.keys import generic_keys
from streaming_vla.serving.server import greeting

SOURCE = Path(__file__).parents[2] / "src"
NO_ROS = """
import sys
GONE = {"rclpy", "ament_index_python", "launch", "launch_ros", "pyarrow", "av", "mcap", "rosbags", "mujoco",
        "metaworld", "gymnasium", "optuna", "matplotlib", "transformers", "scipy", "psutil", "lz4", "zstandard", "ray"}

class NoRos:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in GONE or top.endswith(("_msgs", "_interfaces", "_srvs")):
            raise ModuleNotFoundError(f"{name} is not installed here", name=top)

sys.meta_path.insert(0, NoRos())
"""
PARAMETERS = """
/**/inference:
  ros__parameters:
    model: "python:policies:make_summing"
    cache_policy: "full"
"""


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command without ROS and what only the robot needs; yields the process and its first line."""
    (folder / "sitecustomize.py").write_text(NO_ROS, encoding="utf-8")
    path = os.pathsep.join(map(str, (folder, SOURCE, Path(__file__).parent)))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "streaming_vla", "serve", *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline()
    finally:
        process.kill()
        process.communicate()


def test_it_needs_no_ros_is_killed_and_started_again_and_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text(PARAMETERS, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    arguments = ("--params-file", "robot.yaml", "--port", port, "--clients", "1")
    with serving(tmp_path, *arguments) as (process, line):
        assert line == f"Serving summing at openpi://127.0.0.1:{port} without a key, 1 clients. Ctrl-C stops.\n"
        client = Client(f"127.0.0.1:{port}")
        assert [client.actions(request_of(SPEC, [n, 0.0]))[0, 0] for n in (1.0, 2.0)] == [1.0, 3.0]
        process.kill()
        with pytest.raises((ConnectionClosed, OSError)):
            client.say(request_of(SPEC, [4.0, 0.0]))
    with serving(tmp_path, *arguments) as (process, line):
        assert line.startswith("Serving summing")
        client = Client(f"127.0.0.1:{port}")
        assert client.actions(request_of(SPEC, [8.0, 0.0]))[0, 0] == 8.0, "nothing of the old history"
        begin_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=10.0)
        assert (process.returncode, rest) == (0, "Stopped.\n")
        assert time.monotonic() - begin_s < 5.0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("compact_mt1",), "model 'compact_mt1' is unknown"),
        (("python:policies:SPEC",), "has a PolicySpec, no function"),
        (("--host", "0.0.0.0"), "can be reached from other machines"),
        (("--key-file", "nowhere"), "--key-file nowhere cannot be read"),
        (("--clients", "0"), "parameter 'max_sessions' is 0, expected"),
        (("--port", "70000"), "--port is 70000"),
        (("--device", "cuda"), "model_device is set"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(arguments: tuple[str, ...], expected: str) -> None:
    ended = CliRunner().invoke(app, ["serve", *arguments])
    assert ended.exit_code == 1 and expected in ended.stderr, ended.output
    assert re.fullmatch(r"streaming-vla: .*\n", ended.stderr)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = CliRunner().invoke(app, ["serve", "--port", str(taken.getsockname()[1])])
    assert ended.exit_code == 1 and "choose another --port" in ended.stderr


def test_the_how_to_is_true(tmp_path: Path) -> None:
    page = (SOURCE.parent / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_model.yaml").write_text(text, encoding="utf-8")
    assert read(tmp_path / "my_model.yaml").inference.cache_policy == "full"
    known = {option for parameter in get_command(app).commands["serve"].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"(?<=[ `])--[a-z-]+", page)) <= known
    told = greeting(SPEC)
    for key in (*told, *told["streaming_vla/optional_keys"], *generic_keys(SPEC).state, "prompt", "actions"):
        assert f"`{key}`" in page, key
