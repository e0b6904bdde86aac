"""The example client lets the simulated robot open a drawer, and has the arm stopped when its time is over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from streaming_vla_interfaces.msg import ExecutionState
from streaming_vla_interfaces.srv import ResetRobot

from streaming_vla.bringup import graph
from streaming_vla.bringup.starter import Suite

pytestmark = pytest.mark.ros
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "execute_instruction.py"
TIMEOUT_S = 110.0


def test_the_example_client_opens_a_drawer(
    probe: Any, domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    states = probe.record(ExecutionState, "execution_state")
    with Suite(graph.nodes(simulated=True), log_folder=tmp_path, say=lambda line: None):
        for limit_s, code, told in ((90.0, 0, "the robot's own check says"), (0.5, 1, "it was not done after 0.5 s")):
            reset = probe.call(ResetRobot, "reset_robot", task="drawer-open", seed=10_000)
            assert reset.accepted
            command = [sys.executable, str(EXAMPLE), reset.instruction, str(limit_s)]
            done = subprocess.run(
                command, env=os.environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            assert done.returncode == code and done.stdout.splitlines()[-1].startswith(told), done.stdout + done.stderr
            probe.spin(1.0)
            assert states[-1][1].mode == ExecutionState.MODE_IDLE
