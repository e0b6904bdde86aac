"""`streaming-vla up` with the real nodes and the simulated robot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from streaming_vla.bringup import graph
from streaming_vla.ros.reach import CHOICES
from streaming_vla.workbench.demo.domain import reserved_domain

pytestmark = pytest.mark.ros

START_TIMEOUT_S = 100.0


@contextmanager
def start(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command on a free domain, and end it whatever the test does; its output is one stream."""
    # a shell lets what it runs in the background ignore SIGINT, and a process hands that on to its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    with (
        reserved_domain() as domain,
        subprocess.Popen(
            [sys.executable, "-m", "streaming_vla", "up", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, "ROS_DOMAIN_ID": str(domain)},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that the command has started."""
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for path in lists for pid in path.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_every_node_becomes_active_and_a_signal_stops_them_all(number: signal.Signals) -> None:
    with start("--sim", "--namespace", "robot_1") as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Active: sim_robot, inference, observer, "):
                break
        nodes = children(process)
        assert len(nodes) == len(graph.NODES), "".join(lines)
        assert [line for line in lines if line.startswith("Only this machine reaches these nodes")] == lines[-2:-1]
        for pid in (process.pid, *nodes):
            sockets = psutil.Process(pid).net_connections(kind="inet")
            assert sockets and {socket.laddr.ip for socket in sockets} == {"127.0.0.1"}
        process.send_signal(number)
        rest = process.stdout.read()
        process.wait(START_TIMEOUT_S)
    assert process.returncode == 0
    assert rest.endswith("Stopped.\n")
    assert "Traceback" not in rest
    assert not [pid for pid in nodes if Path(f"/proc/{pid}").exists()]
    order = [line.split(":")[0] for line in lines if ": active after" in line]
    assert order == [node.name for node in graph.NODES]


def test_the_model_runs_in_a_suite_of_its_own() -> None:
    with start("--nodes", "inference") as model, start("--sim", "--nodes", "robot", "--namespace", "left") as robot:
        for process, names in (
            (model, ["inference"]),
            (robot, [node.name for node in graph.NODES if node.name != "inference"]),
        ):
            assert process.stdout is not None
            told = f"Active: {', '.join(names)}. Ctrl-C stops.\n"
            said = list(iter(process.stdout.readline, told))
            assert any(f"{names[-1]}: active after" in line for line in said)


def test_fault_of_a_node_ends_the_command_with_its_sentence(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("/**/inference:\n  ros__parameters:\n    model: no_such_model\n")
    began_s = time.monotonic()
    with start("--params-file", str(file)) as process:
        output, _ = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 1
    place = f"streaming-vla: {file}: section '/**/inference': "
    assert output.splitlines()[-1].startswith(f"{place}node 'inference': model 'no_such_model' is unknown")
    assert "Traceback" not in output
    assert time.monotonic() - began_s < START_TIMEOUT_S


def test_unknown_parameter_is_refused_before_any_node_starts(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("/**/executor:\n  ros__parameters:\n    hold: 1.0\n")
    with start("--params-file", str(file)) as process:
        output, _ = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 1
    assert len(output.splitlines()) == 1
    assert "did you mean 'hold_s'?" in output
