"""The whole suite as processes: a task is done, and every node may die and come back."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger
from streaming_vla_interfaces.msg import ExecutionState
from streaming_vla_interfaces.srv import ResetRobot, StartEpisode

from streaming_vla.nodes.base import LATCHED

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]
SHIPPED = Path(__file__).parents[2] / "models" / "compact_mt10.safetensors"
NODES = ("sim_robot", "inference", "observer", "generator", "executor", "saliency_monitor")
PERIOD_S = 0.05
BUSY_S = 0.05  # a machine that also runs the rest may be this late


class Running:
    """The suite at work, seen from outside."""

    def __init__(self, suite: Any, probe: Any, model: str) -> None:
        self.suite, self.probe = suite, probe
        suite.start("sim_robot")
        suite.start("inference", model=model)
        suite.start("executor", hold_s=60.0)  # so that a node may take its time to come back
        for node in ("observer", "generator", "saliency_monitor"):
            suite.start(node)
        probe.wait_for_nodes(*NODES)
        self.states = probe.record(ExecutionState, "execution_state")
        self.commands = probe.record(Float64MultiArray, "command")
        self.hands = probe.record(PoseStamped, "hand_pose")
        self.success = probe.record(Bool, "success", LATCHED)

    def begin(self, task: str, seed: int) -> None:
        self.probe.call(Trigger, "stop_episode")
        answer = self.probe.call(ResetRobot, "reset_robot", task=task, seed=seed)
        assert answer.accepted, answer.reason
        started = self.probe.call(StartEpisode, "start_episode", instruction=answer.instruction)
        assert started.accepted, started.reason
        self.wait_for_actions(10)

    def wait_for_actions(self, count: int) -> None:
        """Wait until the executor has begun `count` more actions."""
        begin = sum(state.mode == ExecutionState.MODE_PLAYING for _, state in self.states)
        self.probe.wait(
            lambda: sum(state.mode == ExecutionState.MODE_PLAYING for _, state in self.states) >= begin + count,
            "no action is executed",
            60.0,
        )


@pytest.fixture(scope="module")
def running(suite: Any, probe: Any, toy_model: Path) -> Running:
    return Running(suite, probe, str(SHIPPED if SHIPPED.is_file() else toy_model))


@pytest.mark.skipif(not SHIPPED.is_file(), reason="models/compact_mt10.safetensors is missing: train it first")
def test_an_episode_succeeds(running: Running) -> None:
    for seed in range(10_000, 10_003):  # a learned policy may fail once
        running.begin("drawer-open", seed)
        try:
            running.probe.wait(lambda: running.success[-1][1].data, "the drawer is not open", 15.0)
        except AssertionError:
            continue
        break
    else:
        raise AssertionError("the drawer was not opened in three episodes")
    state = running.states[-1][1]
    assert state.hand_overs >= 2, "observations did not overlap with execution"
    assert running.probe.call(Trigger, "stop_episode").success
    running.probe.wait(lambda: running.states[-1][1].mode == ExecutionState.MODE_IDLE, "the executor does not rest")


@pytest.mark.parametrize("node", NODES)
def test_a_node_may_die_and_come_back(running: Running, node: str) -> None:
    running.begin("reach", 10_000)
    running.suite.end(node, signal.SIGKILL)
    killed_s = time.monotonic()
    running.probe.spin(2.0)  # longer than what was queued, or than a context lasts
    running.suite.start(node)
    if node == "executor":
        assert_the_arm_rests(running, killed_s)
    else:
        assert_the_executor_holds(running, killed_s)
    running.probe.wait_for_nodes(node)
    running.wait_for_actions(20)


def assert_the_executor_holds(running: Running, killed_s: float) -> None:
    commands = [(heard, message.data) for heard, message in running.commands if heard > killed_s]
    gaps = np.diff([killed_s, *(heard for heard, _ in commands)])
    assert gaps.max() < 2 * PERIOD_S + BUSY_S, "the robot was left without a command"
    state = [state for heard, state in running.states if heard > killed_s][-1]
    assert state.mode == ExecutionState.MODE_HOLD and state.held
    assert list(commands[-1][1][:3]) == [0.0, 0.0, 0.0], "a hold must not move the hand"


def assert_the_arm_rests(running: Running, killed_s: float) -> None:
    """Without an executor nobody commands: the arm goes where it was told last, and stays."""
    late_s = killed_s + 2 * PERIOD_S + BUSY_S
    assert all(heard < late_s for heard, _ in running.commands), "commands without an executor"
    for after_s, most_m in ((late_s, 0.03), (killed_s + 1.0, 0.003)):
        hands = [pose.pose.position for heard, pose in running.hands if heard > after_s]
        path = np.array([(hand.x, hand.y, hand.z) for hand in hands])
        assert len(path) > 10 and np.ptp(path, axis=0).max() < most_m
