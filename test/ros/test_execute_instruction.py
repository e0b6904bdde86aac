"""The action `execute_instruction` on the live monitor: how a goal ends, and who is rejected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from streaming_vla_interfaces.action import ExecuteInstruction
from streaming_vla_interfaces.msg import Episode, ExecutionState
from streaming_vla_interfaces.srv import StartEpisode

from streaming_vla.ros.base import LATCHED, reliable

pytestmark = pytest.mark.ros
Result = ExecuteInstruction.Result


class Client:
    """A client of the action that is executor and robot as well: it says what they do."""

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.episodes = probe.record(Episode, "episode", LATCHED)
        self.states = probe.publisher(ExecutionState, "execution_state", reliable(50))
        self.verdicts = probe.publisher(Bool, "success", LATCHED)
        self.feedback: list[Any] = []
        self._client = ActionClient(probe.node, ExecuteInstruction, "execute_instruction")
        probe.wait(self._client.server_is_ready, "nobody serves the action", 30.0)

    def send(self, instruction: str = "open it", time_limit_s: float = 0.0) -> Any:
        """Send a goal; return its handle."""
        self.feedback.clear()
        goal = ExecuteInstruction.Goal(instruction=instruction, time_limit_s=time_limit_s)
        sent = self._client.send_goal_async(goal, feedback_callback=lambda heard: self.feedback.append(heard.feedback))
        self.probe.wait(sent.done, "a goal is not answered")
        return sent.result()

    def begin(self, time_limit_s: float = 0.0) -> Any:
        """Send a goal that is accepted; the robot begins to move."""
        handle = self.send(time_limit_s=time_limit_s)
        assert handle.accepted
        self.probe.wait(lambda: self.episodes and self.episodes[-1][1].active, "no episode begins")
        self.say(ExecutionState.MODE_PLAYING)
        self.probe.wait(lambda: self.feedback, "no feedback comes")
        return handle

    def say(self, mode: int) -> None:
        """Say as the executor what it does in the newest episode."""
        self.states.publish(
            ExecutionState(
                session="/", episode=self.number, mode=mode, context=0, index=0, executed=3, starved=mode == 5
            )
        )

    @property
    def number(self) -> int:
        return int(self.episodes[-1][1].number)

    def end(self, handle: Any) -> Any:
        """Stand when the episode ends, as the executor does; return state and result of the goal."""
        number = self.number
        answer = handle.get_result_async()
        self.probe.wait(lambda: not self.episodes[-1][1].active and self.number == number, "the episode does not end")
        self.say(ExecutionState.MODE_IDLE)
        return self.answer(answer)

    def answer(self, answer: Any) -> Any:
        self.probe.wait(answer.done, "no result comes")
        return answer.result().status, answer.result().result


@pytest.fixture(scope="module")
def client(suite: Any, probe: Any) -> Iterator[Client]:
    suite.start("saliency_monitor")
    probe.wait_for_nodes("saliency_monitor")
    yield Client(probe)


def test_the_robots_own_check_ends_a_goal_with_success(client: Client) -> None:
    handle = client.begin()
    told = client.feedback[-1]
    assert (told.episode, told.phase, told.executed, told.held) == (
        client.number,
        ExecutionState.MODE_PLAYING,
        3,
        False,
    )
    assert 0.0 < told.observation_age_s < 10.0
    client.verdicts.publish(Bool(data=False))
    client.probe.spin(0.3)
    assert client.episodes[-1][1].active and client.episodes[-1][1].instruction == "open it"
    client.verdicts.publish(Bool(data=True))
    status, result = client.end(handle)
    assert (status, result.ended) == (GoalStatus.STATUS_SUCCEEDED, Result.ENDED_SUCCESS)
    assert (result.checked, result.episode, result.executed) == (True, client.number, 3)


def test_a_success_that_was_there_before_is_not_that_of_the_goal(client: Client) -> None:
    client.verdicts.publish(Bool(data=True))
    client.probe.spin(0.3)
    handle = client.begin()
    client.probe.spin(0.5)
    assert client.episodes[-1][1].active
    handle.cancel_goal_async()
    assert client.end(handle)[1].ended == Result.ENDED_CANCELLED


def test_a_time_limit_ends_a_goal(client: Client) -> None:
    handle = client.begin(time_limit_s=1.0)
    status, result = client.end(handle)
    assert (status, result.ended) == (GoalStatus.STATUS_ABORTED, Result.ENDED_TIME_LIMIT)
    assert result.reason == "it was not done after 1 s" and 1.0 <= result.duration_s < 20.0


def test_a_cancelled_goal_ends_when_the_robot_stands(client: Client) -> None:
    handle = client.begin()
    answer, cancelled = handle.get_result_async(), handle.cancel_goal_async()
    client.probe.wait(cancelled.done, "the wish is not answered")
    assert len(cancelled.result().goals_canceling) == 1
    client.probe.wait(lambda: not client.episodes[-1][1].active, "the episode does not end")
    client.probe.spin(0.3)
    assert not answer.done(), "the robot still moves"
    client.say(ExecutionState.MODE_IDLE)
    status, result = client.answer(answer)
    assert (status, result.ended) == (GoalStatus.STATUS_CANCELED, Result.ENDED_CANCELLED)


def test_an_error_of_the_robot_ends_a_goal(client: Client) -> None:
    handle = client.begin()
    client.say(ExecutionState.MODE_ERROR)
    status, result = client.end(handle)
    assert (status, result.ended) == (GoalStatus.STATUS_ABORTED, Result.ENDED_ROBOT_ERROR)
    assert result.reason == "the executor stopped the robot: no action came in time"


def test_a_second_goal_is_rejected_and_the_first_goes_on(client: Client, suite: Any) -> None:
    first = client.begin()
    number = client.number
    assert not client.send("close it").accepted
    assert client.number == number and client.episodes[-1][1].active
    assert "another goal is carried out: cancel it first" in suite.log("saliency_monitor")
    first.cancel_goal_async()
    assert client.end(first)[1].ended == Result.ENDED_CANCELLED


def test_a_goal_is_rejected_while_an_episode_of_somebody_runs(client: Client) -> None:
    assert client.probe.call(StartEpisode, "start_episode", instruction="close it").accepted
    assert not client.send().accepted
    assert client.probe.call(Trigger, "stop_episode").success
    client.probe.wait(lambda: client.probe.figure("saliency_monitor", "goal_rejected") != "0", "it is not counted")


@pytest.mark.parametrize("limit_s", [-1.0, float("nan"), float("inf")])
def test_what_is_no_time_limit_is_rejected(client: Client, limit_s: float) -> None:
    assert not client.send(time_limit_s=limit_s).accepted


def test_a_goal_without_an_instruction_says_why_it_ended(client: Client) -> None:
    status, result = client.answer(client.send("").get_result_async())
    assert (status, result.ended, result.episode) == (GoalStatus.STATUS_ABORTED, Result.ENDED_REFUSED, 0)
    assert result.reason.startswith("no instruction: pass one")


@pytest.mark.parametrize("replaced", [False, True])
def test_who_ends_or_replaces_the_episode_ends_the_goal(client: Client, replaced: bool) -> None:
    handle = client.begin()
    answer = handle.get_result_async()
    if replaced:
        number = client.number
        assert client.probe.call(StartEpisode, "start_episode", instruction="close it").accepted
        status, result = client.answer(answer)
        assert result.reason == f"episode {number + 1} was begun in its place" and result.episode == number
        assert client.probe.call(Trigger, "stop_episode").success
    else:
        assert client.probe.call(Trigger, "stop_episode").success
        status, result = client.end(handle)
        assert result.reason == "somebody ended its episode"
    assert (status, result.ended) == (GoalStatus.STATUS_ABORTED, Result.ENDED_STOPPED)


def test_a_deactivated_monitor_ends_the_goal_and_takes_one_when_it_is_active_again(client: Client) -> None:
    def change(transition: int) -> None:
        name = "/saliency_monitor/change_state"
        assert client.probe.call(ChangeState, name, transition=Transition(id=transition)).success

    answer = client.begin().get_result_async()
    change(Transition.TRANSITION_DEACTIVATE)
    status, result = client.answer(answer)
    assert (status, result.ended) == (GoalStatus.STATUS_ABORTED, Result.ENDED_STOPPED)
    assert not client.episodes[-1][1].active and "was deactivated" in result.reason
    assert not client.send().accepted
    change(Transition.TRANSITION_CLEANUP)
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        change(transition)
    handle = client.begin()
    client.verdicts.publish(Bool(data=True))
    assert client.end(handle)[0] == GoalStatus.STATUS_SUCCEEDED
