"""Several robots' steps in one pass of the model: who goes together, and that nobody suffers from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from toy import Served, ToyPolicy, flow, served

from streaming_vla.engine.values import Reply
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.policies.contract import FlowQuery
from streaming_vla.policies.layout import Vector

torch.set_num_threads(1)
ROBOTS = ("/a", "/b", "/c")


@dataclass
class BatchingToy(ToyPolicy):
    """Does steps together and writes down how many; one of the robot with `sick` as its mark is no number."""

    passes: list[int] = field(default_factory=list)
    sick: float = -1.0

    def flow_steps(self, queries: Sequence[FlowQuery]) -> list[Vector]:
        """Do each."""
        self.passes.append(len(queries))
        found = [self.flow_step(query) for query in queries]
        newest = [float(query.view.values[0, 0, -1, 0]) for query in queries]
        return [np.full(2, np.nan) if mark == self.sick else own for mark, own in zip(newest, found, strict=True)]


def prepared(policy: ToyPolicy, observations: dict[str, int]) -> Served:
    """Return an engine whose robots have prefilled so many observations each."""
    made = served(policy, max_sessions=len(ROBOTS))
    for mark, (robot, count) in enumerate(observations.items(), start=1):
        for number in range(count):
            made.prefilled(number, session=robot, mark=float(mark))
    policy.log.clear()
    return made


def actions(replies: list[Reply]) -> list[tuple[str, int]]:
    """Return robot and step of every action that has come, in order."""
    return [(reply.session, reply.value.step) for reply in replies if isinstance(reply.value, GeneratedAction)]


def test_steps_that_wait_together_go_in_one_pass_and_give_what_each_gives_alone() -> None:
    answers = []
    for policy in (BatchingToy(), ToyPolicy()):
        made = prepared(policy, dict.fromkeys(ROBOTS, 1))
        waiting = {robot: made.ask(flow(0, step), robot) for step, robot in enumerate(ROBOTS)}
        made.finish()
        answers.append([tuple(made.answer(request, robot).values) for robot, request in waiting.items()])
        assert made.engine.counts()["served.generate"] == len(ROBOTS)
        if isinstance(policy, BatchingToy):
            assert policy.passes == [3]
    assert answers[0] == answers[1]


def test_granted_steps_go_together_as_long_as_each_robot_has_some() -> None:
    policy = BatchingToy()
    made = prepared(policy, dict.fromkeys(ROBOTS, 1))
    for steps, robot in zip((1, 2, 3), ROBOTS, strict=True):
        made.ask(flow(0, steps=steps), robot)
    made.finish()
    assert policy.passes == [3, 2], "the last one goes alone"
    assert [len(made.steps(robot)) for robot in ROBOTS] == [1, 2, 3]
    assert actions(made.replies)[:3] == [(robot, 0) for robot in ROBOTS]


def test_contexts_of_other_sizes_go_in_a_pass_of_their_own_and_the_oldest_goes_first() -> None:
    policy = BatchingToy()
    made = prepared(policy, {"/a": 1, "/b": 2, "/c": 1})
    for robot in ("/b", "/a", "/c"):
        made.ask(flow(1 if robot == "/b" else 0), robot)
    made.finish()
    assert [robot for robot, _ in actions(made.replies)] == ["/b", "/a", "/c"] and policy.passes == [2]


def test_what_is_refused_or_fails_for_one_robot_is_served_for_the_others() -> None:
    policy = BatchingToy(sick=2.0)
    made = prepared(policy, {"/a": 1, "/b": 1, "/c": 2})
    contexts = {"/a": 0, "/b": 0, "/c": 0}
    made.prefilled(2, session="/c", mark=3.0)
    made.prefilled(5, session="/c", mark=3.0)  # context 4 was left out
    contexts["/c"] = 4
    waiting = {robot: made.ask(flow(context), robot) for robot, context in contexts.items()}
    made.finish()
    codes = [made.answer(request, robot).code for robot, request in waiting.items()]
    assert codes == ["", "policy_failed", "no_context"]
    assert made.engine.flow_latency.smoothed_s is None


def test_a_policy_that_forgets_a_robot_fails_for_all_of_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = BatchingToy()
    monkeypatch.setattr(policy, "flow_steps", lambda queries: [np.zeros(2) for _ in queries[1:]])
    made = prepared(policy, dict.fromkeys(ROBOTS, 1))
    waiting: dict[str, GenerateRequest] = {robot: made.ask(flow(0, steps=3), robot) for robot in ROBOTS}
    made.finish()
    answers = [made.answer(request, robot) for robot, request in waiting.items()]
    assert [answer.code for answer in answers] == ["policy_failed"] * 3
    assert "returned 2 actions, expected 3" in answers[0].reason
    assert len(actions(made.replies)) == 3, "a flow that failed does not go on"


def test_closing_refuses_every_robot_that_waits_once() -> None:
    made = prepared(BatchingToy(), dict.fromkeys(ROBOTS, 1))
    waiting = {robot: made.ask(flow(0, steps=2), robot) for robot in ROBOTS}
    made.replies += made.engine.close()
    assert [made.answer(request, robot).code for robot, request in waiting.items()] == ["closed"] * 3
    assert made.engine.deadline() == float("inf")
    late = made.ask(flow(0), "/a")
    made.poll()
    assert made.answer(late).code == "closed"


@pytest.mark.parametrize("late", [True, False])
def test_a_step_that_is_asked_for_while_a_pass_runs_waits_for_its_own_turn(late: bool) -> None:
    policy = BatchingToy()
    made = prepared(policy, dict.fromkeys(ROBOTS, 1))
    extra: list[GenerateRequest] = []

    def hook(name: str) -> None:
        if late and not extra and name == "flow 0":
            extra.append(made.ask(flow(0), "/c"))

    policy.hook = hook
    for robot in ("/a", "/b"):
        made.ask(flow(0), robot)
    made.finish()
    assert [robot for robot, _ in actions(made.replies)] == ["/a", "/b", *(["/c"] if late else [])]
    assert policy.passes == [2]


def test_more_steps_that_are_granted_while_a_pass_runs_are_done() -> None:
    policy = BatchingToy()
    made = prepared(policy, dict.fromkeys(ROBOTS, 1))
    first = {robot: made.ask(flow(0), robot) for robot in ROBOTS}
    granted = []

    def hook(name: str) -> None:
        if name == "flow 0" and not granted:
            granted.append(True)
            for robot, request in first.items():
                made.ask(flow(0, step=1, steps=2, revision=request.revision), robot)

    policy.hook = hook
    made.finish()
    assert {robot: made.steps(robot) for robot in ROBOTS} == {robot: [(0, 0), (0, 1), (0, 2)] for robot in ROBOTS}
