"""The simulated robot's process runs the tasks that need memory by their names."""

from __future__ import annotations

from typing import Any

import pytest
from std_msgs.msg import String
from streaming_vla_interfaces.srv import ResetRobot

from streaming_vla.ros.base import LATCHED
from streaming_vla.sim.memory_tasks import MEMORY_TASKS

pytestmark = pytest.mark.ros


def test_memory_tasks_run_by_name(suite: Any, probe: Any) -> None:
    suite.start("sim_robot", image_size=32, task="cued-reach")
    probe.wait_for_nodes("sim_robot")
    instructions = probe.record(String, "instruction", LATCHED)
    probe.wait(lambda: instructions, "no instruction")
    assert instructions[0][1].data == MEMORY_TASKS["cued-reach"].instructions[0]
    for name, task in MEMORY_TASKS.items():
        reply = probe.call(ResetRobot, "reset_robot", task=name, seed=3)
        assert reply.accepted and reply.instruction == task.instructions[0]
