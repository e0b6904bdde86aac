"""Several robots' flow steps in one pass of the model: who goes together, and that nobody suffers from another."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from toy import Answer, ToyPolicy, finish, flow, observation, observe, options, step

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.values import FlowResult
from streaming_vla.policies.contract import FlowQuery
from streaming_vla.policies.layout import Vector

torch.set_num_threads(1)
ROBOTS = ("/a", "/b", "/c")


@dataclass
class BatchingToy(ToyPolicy):
    """Does steps together and writes down how many; one of the robot with `sick` as its mark is no number."""

    passes: list[int] = field(default_factory=list)
    sick: float = -1.0

    def flow_steps(self, queries: list[FlowQuery]) -> list[Vector]:
        """Do each."""
        self.passes.append(len(queries))
        found = [self.flow_step(query.view, query.position, query.index) for query in queries]
        newest = [float(query.view.values[0, 0, -1, 0]) for query in queries]
        return [np.full(2, np.nan) if mark == self.sick else own for mark, own in zip(newest, found, strict=True)]


def prepared(policy: ToyPolicy, observations: dict[str, int]) -> Engine:
    """Return an engine whose robots have prefilled so many observations each."""
    engine = Engine(policy, options(max_sessions=len(ROBOTS)))
    for mark, (robot, count) in enumerate(observations.items(), start=1):
        for number in range(count):
            observe(engine, observation(number, session=robot, mark=float(mark)))
            finish(engine)
    return engine


def test_steps_that_wait_together_go_in_one_pass_and_give_what_each_gives_alone() -> None:
    answers = []
    for policy in (BatchingToy(), ToyPolicy()):
        engine = prepared(policy, dict.fromkeys(ROBOTS, 1))
        waiting = [step(engine, flow(0, index), session=robot) for index, robot in enumerate(ROBOTS)]
        finish(engine)
        answers.append([tuple(answer.get().values) for answer in waiting])
        assert engine.counts()["served.flow_step"] == len(ROBOTS)
        if isinstance(policy, BatchingToy):
            assert policy.passes == [3]
    assert answers[0] == answers[1]


def test_contexts_of_other_sizes_go_in_a_pass_of_their_own_and_the_oldest_goes_first() -> None:
    policy = BatchingToy()
    engine = prepared(policy, {"/a": 1, "/b": 2, "/c": 1})
    order: list[str] = []
    for robot in ("/b", "/a", "/c"):
        engine.flow_step(robot, flow(1 if robot == "/b" else 0), lambda _result, robot=robot: order.append(robot))
    finish(engine)
    assert order == ["/b", "/a", "/c"] and policy.passes == [2]


def test_what_is_refused_or_fails_for_one_robot_is_served_for_the_others() -> None:
    policy = BatchingToy(sick=2.0)
    engine = prepared(policy, dict.fromkeys(ROBOTS, 1))
    waiting = [step(engine, flow(context), session=robot) for robot, context in zip(ROBOTS, (0, 0, 7), strict=True)]
    finish(engine)
    assert [answer.get().code for answer in waiting] == ["", "policy_failed", "no_context"]


def test_a_policy_that_forgets_a_robot_fails_for_all_of_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = BatchingToy()
    monkeypatch.setattr(policy, "flow_steps", lambda queries: [np.zeros(2) for _ in queries[1:]])
    engine = prepared(policy, dict.fromkeys(ROBOTS, 1))
    waiting = [step(engine, flow(0), session=robot) for robot in ROBOTS]
    finish(engine)
    assert [answer.get().code for answer in waiting] == ["policy_failed"] * 3
    assert "returned 2 actions, expected 3" in waiting[0].get().reason


def test_closing_refuses_every_step_that_waits_once() -> None:
    engine = prepared(BatchingToy(), dict.fromkeys(ROBOTS, 1))
    waiting: list[Answer[FlowResult]] = [step(engine, flow(0), session=robot) for robot in ROBOTS]
    engine.close()
    assert [answer.get().code for answer in waiting] == ["closed"] * 3


@pytest.mark.parametrize("late", [True, False])
def test_a_step_that_comes_while_a_pass_runs_waits_for_its_own_turn(late: bool) -> None:
    policy = BatchingToy()
    engine = prepared(policy, dict.fromkeys(ROBOTS, 1))
    extra: list[Answer[FlowResult]] = []

    def hook(name: str) -> None:
        if late and not extra and name == "flow 0":
            extra.append(step(engine, flow(0), session="/c"))

    policy.hook = hook
    waiting = [step(engine, flow(0), session=robot) for robot in ("/a", "/b")]
    finish(engine)
    assert all(answer.get().accepted for answer in (*waiting, *extra)) and len(extra) == int(late)
