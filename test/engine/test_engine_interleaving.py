"""Several robots on one engine: no prefill, of whatever robot, keeps a flow step waiting for more than one slice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import Answer, ToyPolicy, finish, flow, observation, observe, options, report_of

from streaming_vla.engine.engine import Engine
from streaming_vla.engine.values import FlowResult

torch.set_num_threads(1)
SLICE_S, STEP_S = 1.0, 0.1
ROBOTS = ("/a", "/b", "/c")


class Timed:
    """An engine on a made-up clock; flow steps come in the middle of the slices that a test chooses."""

    def __init__(self, slices: int, asked_in: set[int]) -> None:
        self.now = 0.0
        self.slice = 0
        self.asked_in = asked_in
        self.armed = False
        self.steps: list[Answer[FlowResult]] = []
        self.policy = ToyPolicy(slices=slices, hook=self._work)
        self.engine = Engine(self.policy, options(max_sessions=len(ROBOTS)), clock=lambda: self.now)
        for robot in ROBOTS:
            observe(self.engine, observation(0, session=robot))
        finish(self.engine)
        self.armed, self.slice = True, 0
        self.policy.log.clear()

    def _work(self, name: str) -> None:
        if not name.startswith("slice"):
            self.now += STEP_S
            return
        self.now += SLICE_S / 2
        if self.armed and self.slice in self.asked_in:
            answer: Answer[FlowResult] = Answer()
            self.engine.flow_step("/a", flow(0), answer)
            self.steps.append(answer)
        self.slice += 1
        self.now += SLICE_S / 2


@given(st.integers(2, 6), st.sets(st.integers(0, 17)))
def test_a_flow_step_waits_for_one_slice_at_most(slices: int, asked_in: set[int]) -> None:
    made = Timed(slices, asked_in)
    contexts = [observe(made.engine, observation(1, session=robot)) for robot in ROBOTS]
    finish(made.engine)
    assert all(report_of(context).sequence == 1 for context in contexts), "every prefill ends all the same"
    assert len(made.steps) == len([number for number in asked_in if number < len(ROBOTS) * slices])
    for answer in made.steps:
        assert answer.get().accepted
        assert answer.get().queued_s <= SLICE_S / 2 + 1e-9, "the rest of the slice that was under way, and no more"


@pytest.mark.parametrize("robot", ROBOTS)
def test_flow_steps_go_before_the_next_slice_of_any_robot(robot: str) -> None:
    made = Timed(slices=3, asked_in=set())
    for name in ROBOTS:
        observe(made.engine, observation(1, session=name))
    made.engine.work()  # decodes the first picture
    answers = []
    for _ in range(4):
        answer: Answer[FlowResult] = Answer()
        made.engine.flow_step(robot, flow(0), answer)
        answers.append(answer)
        made.engine.work()
        made.engine.work()
    assert [answer.get().queued_s for answer in answers] == pytest.approx([0.0] * 4)
    assert made.policy.names()[0::2] == ["flow 0"] * 4


def test_flow_steps_of_several_robots_are_served_in_the_order_in_which_they_came() -> None:
    made = Timed(slices=3, asked_in=set())
    order: list[str] = []
    for name in ("/c", "/a", "/b", "/a"):
        made.engine.flow_step(name, flow(0), lambda result, name=name: order.append(name))
    finish(made.engine)
    assert order == ["/c", "/a", "/b", "/a"]
