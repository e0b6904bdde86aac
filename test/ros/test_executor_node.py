"""The executor process against a generator that does everything wrong: what must never become a command."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from streaming_vla_interfaces.msg import Action, Context, Episode, ExecutionState, NodesAway

from streaming_vla.ros.base import LATCHED

pytestmark = pytest.mark.ros
PERIOD_S = 0.05
HELD_EFFORT = 0.75  # the gripper of every good action: a hold keeps it and does not move the hand


class Robot:
    """Monitor, generator and robot in one: publishes episodes, actions and signs of life, hears commands."""

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.commands = probe.record(Float64MultiArray, "command")
        self.states = probe.record(ExecutionState, "execution_state")
        self.episodes = probe.publisher(Episode, "episode", LATCHED)
        self.actions = probe.publisher(Action, "action", 50)
        self.joints = probe.publisher(JointState, "joint_states")
        self.number = 0

    def begin(self) -> None:
        """Begin a new episode and forget what was heard."""
        self.number = max(self.number + 1, int(time.monotonic() * 100))
        self.episodes.publish(Episode(session="/", number=self.number, active=True, instruction="test"))
        number = self.number
        self.probe.wait(lambda: self.states and self.states[-1][1].episode == number, "the episode does not begin")
        self.commands.clear()
        self.states.clear()

    def send(self, index: int, context: int = 0, episode: int | None = None, **fields: Any) -> None:
        """Publish an action that is known by its number."""
        values = fields.pop("values", [0.001 * (index + 1), 0.0, 0.0, HELD_EFFORT])
        number = self.number if episode is None else episode
        action = Action(session="/", episode=number, context=context, index=index, values=values, **fields)
        self.actions.publish(action)

    def live(self, duration_s: float) -> None:
        """Let time pass; the robot shows that it is alive."""
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self.joints.publish(JointState(name=["joint"], position=[0.0]))
            self.probe.spin(PERIOD_S / 2)

    def moves(self) -> list[float]:
        """What was commanded, holds left out."""
        return [round(message.data[0], 4) for _, message in self.commands if message.data[0] != 0.0]

    def rejected(self) -> int:
        return int(self.states[-1][1].rejected)


def change(probe: Any, transition: int) -> None:
    """Let the executor go through a transition of its lifecycle."""
    assert probe.call(ChangeState, "/executor/change_state", transition=Transition(id=transition)).success


@pytest.fixture(scope="module")
def robot(suite: Any, probe: Any) -> Iterator[Robot]:
    suite.start("executor", hold_s=0.4, decelerate_s=0.2, max_action_age_s=2.0, robot_timeout_s=0.3)
    probe.wait_for_nodes("executor")
    yield Robot(probe)


def test_actions_of_a_policy_with_another_layout_are_refused(robot: Robot) -> None:
    contexts = robot.probe.publisher(Context, "context")
    names = ["dx", "dy", "dz", "gripper"]
    layouts = {"foreign": [True, True, True, True], "own": [False, False, False, True]}
    for kind, absolute in layouts.items():
        robot.begin()
        contexts.publish(Context(session="/", episode=robot.number, action_names=names, action_absolute=absolute))
        robot.live(0.3)
        robot.send(0)
        robot.live(0.3)
        assert bool(robot.moves()) == (kind == "own")
        robot.live(0.6)  # the state is repeated every 0.5 s
        assert robot.rejected() == int(kind == "foreign")
    robot.probe.wait(lambda: robot.probe.figure("executor", "action_other_policy") == "1", "the refusal is not counted")


def test_only_the_next_action_is_ever_commanded(robot: Robot) -> None:
    robot.begin()
    robot.live(0.1)
    robot.send(1)  # a gap: index 0 has not come
    robot.send(0)
    robot.send(0)  # twice
    robot.send(2)  # out of order
    robot.send(1)
    robot.send(0)  # late
    robot.send(2, values=[math.nan, 0.0, 0.0, 0.0])
    robot.send(2, values=[0.5, 0.0, 0.0, math.inf])
    robot.send(2, values=[0.5, 0.0, 0.0])
    robot.send(2, values=[0.5] * 5)
    robot.send(2, values=[0.5, 0.0, 0.0, 0.0], episode=robot.number - 1)
    robot.send(2, values=[0.5, 0.0, 0.0, 0.0], episode=robot.number + 1)
    robot.send(2)
    robot.live(0.5)
    assert robot.moves() == [0.001, 0.002, 0.003]
    assert robot.rejected() == 10


def test_another_session_is_not_heard(robot: Robot) -> None:
    robot.begin()
    robot.live(0.1)
    robot.actions.publish(Action(session="/other", episode=robot.number, values=[0.5, 0.0, 0.0, 0.0]))
    robot.live(0.2)
    assert robot.moves() == []


def test_values_outside_of_the_limits_are_clamped(robot: Robot) -> None:
    robot.begin()
    robot.live(0.1)
    robot.send(0, values=[7.0, -7.0, 0.0, HELD_EFFORT])
    robot.live(0.2)
    assert robot.commands[0][1].data.tolist() == [1.0, -1.0, 0.0, HELD_EFFORT]


def test_starved_it_holds_decelerates_and_ends_in_an_error(robot: Robot, suite: Any) -> None:
    robot.begin()
    robot.live(0.1)
    robot.send(0)
    robot.live(1.2)
    modes = [state.mode for _, state in robot.states]
    assert sorted(set(modes), key=modes.index) == [
        ExecutionState.MODE_PLAYING,
        ExecutionState.MODE_HOLD,
        ExecutionState.MODE_DECELERATE,
        ExecutionState.MODE_ERROR,
    ]
    played, *held = [heard for heard, _ in robot.commands]
    assert held[0] - played < 2 * PERIOD_S
    assert np.diff(held).max() < 2 * PERIOD_S
    assert all(message.data.tolist() == [0.0, 0.0, 0.0, HELD_EFFORT] for _, message in robot.commands[1:])
    told = "the robot was stopped, no action came in time: start a new episode"
    robot.probe.wait(lambda: robot.probe.problem("executor") == told, "the error is not told")
    assert robot.probe.level("executor") == DiagnosticStatus.ERROR
    said = [line for line in suite.log("executor").splitlines() if "the robot " in line][-3:]
    assert [line.split("]")[0] for line in said] == ["[WARN", "[WARN", "[ERROR"]
    assert "is held: no action came in time; action 0 of context 0" in said[0]
    assert "brought to rest: held for 0.4 s" in said[1]
    assert "stopped after 0.6 s: no action came in time" in said[2] and "call start_episode" in said[2]
    robot.send(1)
    count = len(robot.commands)
    robot.live(0.3)
    assert len(robot.commands) == count, "after an error only a new episode moves the robot"


def test_while_a_node_is_started_again_the_robot_is_held_and_moves_again_with_its_first_action(
    robot: Robot, suite: Any
) -> None:
    supervisor = robot.probe.publisher(NodesAway, "nodes_away", LATCHED)
    robot.begin()
    robot.live(0.1)
    robot.send(0)
    supervisor.publish(NodesAway(session="/", supervisor="up", nodes=["generator"], away_s=[0.1]))
    robot.live(1.5)
    assert robot.states[-1][1].mode == ExecutionState.MODE_HOLD, "the ladder would have ended after 0.6 s"
    supervisor.publish(NodesAway(session="/", supervisor="up"))
    robot.live(0.3)
    robot.send(0, context=1)
    robot.live(0.2)
    assert robot.moves() == [0.001, 0.001]
    said = [line for line in suite.log("executor").splitlines() if "generator" in line]
    assert any("generator is away: without actions the robot is held for at most 15 s" in line for line in said)
    assert any("recovered: generator was away, the robot moves again after" in line for line in said)
    robot.live(1.0)
    assert robot.states[-1][1].mode == ExecutionState.MODE_ERROR, "nobody is away any more"


def test_a_process_that_was_stopped_goes_on_from_the_hold(robot: Robot, suite: Any) -> None:
    robot.begin()
    robot.live(0.1)
    robot.send(0)
    robot.live(0.05)
    os.kill(suite.pid("executor"), signal.SIGSTOP)
    robot.probe.spin(1.5)
    os.kill(suite.pid("executor"), signal.SIGCONT)
    robot.live(0.2)
    assert robot.states[-1][1].mode == ExecutionState.MODE_HOLD
    robot.send(0, context=1)
    robot.live(0.2)
    assert robot.moves() == [0.001, 0.001]


def test_what_was_stopped_for_good_stays_so_for_an_executor_that_is_started_again(robot: Robot) -> None:
    robot.begin()
    robot.live(0.1)
    robot.send(0)
    robot.live(0.1)
    robot.episodes.publish(Episode(session="/", number=robot.number, active=True, stopped=True))
    robot.live(0.1)
    change(robot.probe, Transition.TRANSITION_DEACTIVATE)
    change(robot.probe, Transition.TRANSITION_ACTIVATE)
    robot.live(0.2)
    count = len(robot.moves())
    robot.send(0, context=1)
    robot.live(0.3)
    assert len(robot.moves()) == count
    assert robot.states[-1][1].mode == ExecutionState.MODE_ERROR
    told = "it was stopped in this episode before this node was started"
    robot.probe.wait(lambda: told in robot.probe.problem("executor"), "the reason is not told")


def test_no_motion_before_the_robot_is_heard(robot: Robot) -> None:
    robot.probe.spin(0.4)  # longer than robot_timeout_s
    robot.begin()
    robot.send(0)
    robot.probe.spin(0.3)
    assert robot.commands == []
    told = "no joint states on '/joint_states': the robot is not moved"
    robot.probe.wait(lambda: robot.probe.problem("executor") == told, "the silence is not told")
    assert robot.probe.level("executor") == DiagnosticStatus.WARN
    robot.send(0)
    robot.live(0.2)
    assert robot.moves() == [0.001]


def test_a_silent_robot_is_not_moved(robot: Robot) -> None:
    robot.begin()
    robot.live(0.1)
    for index in range(20):
        robot.send(index)
    robot.probe.spin(0.8)
    assert 3 <= len(robot.moves()) <= 8  # 0.3 s of silence
    assert robot.states[-1][1].mode != ExecutionState.MODE_PLAYING


def test_the_tick_keeps_time(robot: Robot) -> None:
    robot.begin()
    robot.live(0.1)
    for index in range(50):
        robot.send(index)
    robot.live(2.3)
    stamps = [state.header.stamp for _, state in robot.states if state.mode == ExecutionState.MODE_PLAYING]
    times = np.array([stamp.sec + 1e-9 * stamp.nanosec for stamp in stamps[:40]])
    assert len(times) == 40
    ideal = times[0] + PERIOD_S * np.arange(40)
    assert np.abs(np.median(times - ideal)) < 0.02, "the rhythm drifts"
    assert np.median(np.diff(times)) == pytest.approx(PERIOD_S, abs=0.005)


def test_deactivation_commands_a_stop(robot: Robot) -> None:
    robot.begin()
    robot.live(0.1)
    for index in range(10):
        robot.send(index)
    robot.live(0.2)
    change(robot.probe, Transition.TRANSITION_DEACTIVATE)
    robot.live(0.2)
    assert robot.commands[-1][1].data.tolist() == [0.0, 0.0, 0.0, HELD_EFFORT]
    count = len(robot.commands)
    robot.live(0.3)
    assert len(robot.commands) == count
    change(robot.probe, Transition.TRANSITION_ACTIVATE)


def test_a_robot_whose_episode_is_over_is_commanded_no_more(robot: Robot) -> None:
    robot.begin()
    robot.live(0.1)
    robot.send(0)
    robot.live(0.1)
    robot.episodes.publish(Episode(session="/", number=robot.number, active=False))
    robot.live(0.2)
    assert robot.states[-1][1].mode == ExecutionState.MODE_IDLE
    count = len(robot.commands)
    change(robot.probe, Transition.TRANSITION_DEACTIVATE)
    robot.live(0.2)
    assert len(robot.commands) == count, "somebody else may be moving the robot by now"
    change(robot.probe, Transition.TRANSITION_ACTIVATE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_commands_a_stop_first(robot: Robot, suite: Any, number: signal.Signals) -> None:
    robot.begin()
    robot.live(0.1)
    for index in range(40):
        robot.send(index)
    robot.live(0.3)
    assert robot.commands[-1][1].data[0] != 0.0
    assert suite.end("executor", number) == 0
    robot.live(0.2)
    assert robot.commands[-1][1].data.tolist() == [0.0, 0.0, 0.0, HELD_EFFORT]
    assert "Traceback" not in suite.log("executor")
    suite.start("executor")
    robot.probe.wait_for_nodes("executor")
    robot.probe.wait(lambda: robot.actions.get_subscription_count() > 0, "executor is not back")
