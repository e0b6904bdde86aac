"""Serves the action ExecuteInstruction around the machine of a goal; the node that has it conducts the episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rclpy.task import Future
from streaming_vla_interfaces.action import ExecuteInstruction

from streaming_vla.machines.events import Episode, ExecutionState
from streaming_vla.machines.goal import Ended, EndEpisode, Goal, GoalEffect, Outcome, Progress, limit_problem

NAME = "execute_instruction"


class Conductor(Protocol):
    """Who conducts the episodes."""

    def goal_problem(self) -> str:
        """Return why no goal can begin now, empty when one can."""

    def now(self) -> float:
        """Return the seconds of the node's clock."""

    def begin_episode(self, instruction: str) -> int:
        """Begin an episode and return its number; ValueError when none can begin."""

    def end_episode(self) -> None:
        """End the episode."""

    def refuse(self, reason: str, sentence: str) -> None:
        """Count a refusal and say it."""


class InstructionServer:
    """One goal at a time; whoever comes while one is carried out, or any episode runs, is rejected.

    A goal that took the place of another would let any client move the robot under the hands of the one that has it.

    Args:
        node: that offers the action and is spun.
        conductor: of the episodes.
        checked: whether the robot has a check of its own.
    """

    def __init__(self, node: Node, conductor: Conductor, checked: Callable[[], bool]) -> None:
        self._node, self._conductor, self._checked = node, conductor, checked
        self._goal: Goal | None = None
        self._handle: Any = None
        self._result: Future[Any] | None = None
        self._server = ActionServer(
            node,
            ExecuteInstruction,
            NAME,
            self._wait,
            goal_callback=self._judge,
            handle_accepted_callback=self._begin,
            cancel_callback=self._cancel,
        )

    def on_request(self, sequence: int) -> None:
        """See Goal.on_request."""
        if self._goal is not None:
            self._goal.on_request(sequence, self._conductor.now())

    def on_state(self, state: ExecutionState) -> None:
        """See Goal.on_state."""
        self._do(lambda goal, now: goal.on_state(state, now))

    def on_success(self) -> None:
        """See Goal.on_success."""
        self._do(Goal.on_success)

    def on_episode(self, episode: Episode) -> None:
        """See Goal.on_episode."""
        self._do(lambda goal, now: goal.on_episode(episode, now))

    def abandon(self, reason: str) -> None:
        """See Goal.abandon."""
        self._do(lambda goal, now: goal.abandon(reason, now))

    def deadline(self) -> float | None:
        """See Goal.deadline."""
        return None if self._goal is None else self._goal.deadline()

    def poll(self) -> None:
        """See Goal.poll."""
        self._do(Goal.poll)

    def close(self) -> None:
        """Offer the action no more."""
        self._server.destroy()

    def _judge(self, request: ExecuteInstruction.Goal) -> GoalResponse:
        busy = "another goal is carried out: cancel it first" if self._handle is not None else ""
        problem = busy or limit_problem(request.time_limit_s) or self._conductor.goal_problem()
        if problem:
            self._conductor.refuse("goal_rejected", f"goal of '{NAME}' rejected: {problem}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _begin(self, handle: Any) -> None:
        """Begin what was accepted; a refusal of the monitor reaches the client as the result's reason."""
        self._handle, self._result = handle, Future()
        handle.execute()
        try:
            number = self._conductor.begin_episode(handle.request.instruction)
        except ValueError as error:
            self._finish(Outcome(Ended.REFUSED, str(error)))
            return
        # the observation that the episode begins with was asked for before there was a goal to tell
        self._goal = Goal(number, handle.request.time_limit_s, self._conductor.now())
        self._goal.on_request(0, self._conductor.now())

    def _cancel(self, handle: Any) -> CancelResponse:
        self._do(Goal.cancel)
        return CancelResponse.ACCEPT

    async def _wait(self, handle: Any) -> ExecuteInstruction.Result:
        assert self._result is not None
        outcome: Outcome = await self._result
        self._handle = self._result = None
        if outcome.ended is Ended.SUCCESS:
            handle.succeed()
        elif outcome.ended is Ended.CANCELLED:
            handle.canceled()
        else:
            handle.abort()
        self._node.get_logger().info(f"goal of episode {outcome.episode} ended: {outcome.reason}")
        return ExecuteInstruction.Result(
            ended=int(outcome.ended),
            reason=outcome.reason,
            checked=self._checked(),
            episode=outcome.episode,
            executed=outcome.executed,
            duration_s=outcome.duration_s,
        )

    def _do(self, step: Callable[[Goal, float], list[GoalEffect]]) -> None:
        if self._goal is None:
            return
        for effect in step(self._goal, self._conductor.now()):
            if isinstance(effect, EndEpisode):
                self._conductor.end_episode()
            elif isinstance(effect, Progress):
                self._handle.publish_feedback(_feedback(effect))
            else:
                self._finish(effect)

    def _finish(self, outcome: Outcome) -> None:
        assert self._result is not None
        self._goal = None
        self._result.set_result(outcome)


def _feedback(progress: Progress) -> ExecuteInstruction.Feedback:
    return ExecuteInstruction.Feedback(
        episode=progress.episode,
        phase=int(progress.phase),
        executed=progress.executed,
        held=progress.held,
        held_s=progress.held_s,
        observation_age_s=progress.observation_age_s,
    )
