"""The whole graph with the simulated robot: the example client opens a drawer, and `watch` shows what goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streaming_vla_interfaces.msg import ExecutionState
from streaming_vla_interfaces.srv import ResetRobot, StartEpisode

from streaming_vla.bringup import graph
from streaming_vla.bringup.starter import Suite

pytestmark = pytest.mark.ros
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "execute_instruction.py"
TIMEOUT_S = 250.0


@pytest.fixture(scope="module")
def flying(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patient = {"executor": {"hold_s": 60.0}}  # a busy machine must not end the motion
        with Suite(graph.nodes(simulated=True), settings=patient, log_folder=folder, say=lambda line: None):
            yield


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python beside the graph."""
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.mark.timeout(600)  # on a busy machine the simulated clock slows down
@pytest.mark.usefixtures("flying")
def test_the_example_client_opens_a_drawer_and_has_the_arm_stopped_when_its_time_is_over(probe: Any) -> None:
    states = probe.record(ExecutionState, "execution_state")
    for limit_s, code, told in ((200.0, 0, "the robot's own check says"), (0.5, 1, "it was not done after 0.5 s")):
        reset = probe.call(ResetRobot, "reset_robot", task="drawer-open", seed=10_000)
        assert reset.accepted
        done = run(str(EXAMPLE), reset.instruction, str(limit_s))
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1].startswith(told), done.stdout + done.stderr
        probe.wait(lambda: states[-1][1].mode == ExecutionState.MODE_IDLE, "the robot does not stand", 30.0)


@pytest.mark.usefixtures("flying")
def test_the_page_shows_the_stream(probe: Any) -> None:
    assert probe.call(StartEpisode, "start_episode", instruction="open the drawer").accepted
    done = run("-m", "streaming_vla", "watch", "--once")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert {len(line) for line in done.stdout.splitlines()} == {80}
    text = " ".join(done.stdout.replace("│", " ").split())
    for wanted in (
        "instruction open the drawer",
        "mode always, which has no threshold",
        "window: ",
        "prefill ",
        "Hz, ",
    ):
        assert wanted in text, done.stdout
    nodes = done.stdout.split("─ nodes ─")[1]
    for node in graph.nodes(simulated=False):
        assert node.name in nodes
    assert "not heard" not in nodes and "not known yet" not in text.split("last warnings")[0]
