"""Several robots on one engine: no prefill, of whatever robot, keeps a step waiting for more than one slice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import Served, ToyPolicy, flow, observation, options

from streaming_vla.engine.engine import Engine
from streaming_vla.machines.events import GeneratedAction, GenerateRequest

torch.set_num_threads(1)
SLICE_S, STEP_S = 1.0, 0.1
ROBOTS = ("/a", "/b", "/c")


class Timed(Served):
    """An engine on a made-up clock; steps are asked for in the middle of the slices that a test chooses."""

    def __init__(self, slices: int, asked_in: set[int]) -> None:
        self.slice = 0
        self.asked_in = asked_in
        self.armed = False
        self.asked: list[GenerateRequest] = []
        self.policy = ToyPolicy(slices=slices, hook=self._work)
        made = Engine(self.policy, options(max_sessions=len(ROBOTS)), stopwatch=lambda: self.now)
        super().__init__(made)
        for robot in ROBOTS:
            self.prefilled(0, session=robot)
        self.armed, self.slice = True, 0
        self.policy.log.clear()

    def _work(self, name: str) -> None:
        if not name.startswith("slice"):
            self.now += STEP_S
            return
        self.now += SLICE_S / 2
        if self.armed and self.slice in self.asked_in:
            self.asked.append(self.ask(flow(0)))
        self.slice += 1
        self.now += SLICE_S / 2


@given(st.integers(2, 6), st.sets(st.integers(0, 17)))
def test_a_step_waits_for_one_slice_at_most(slices: int, asked_in: set[int]) -> None:
    made = Timed(slices, asked_in)
    for robot in ROBOTS:
        made.observe(observation(1, session=robot))
    made.finish()
    assert all(made.report(1, robot) for robot in ROBOTS), "every prefill ends all the same"
    assert len(made.asked) == len([number for number in asked_in if number < len(ROBOTS) * slices])
    for request in made.asked:
        action = made.answer(request)
        assert action.accepted
        assert action.queued_s <= SLICE_S / 2 + 1e-9, "the rest of the slice that was under way, and no more"


@pytest.mark.parametrize("robot", ROBOTS)
def test_steps_go_before_the_next_slice_of_any_robot(robot: str) -> None:
    made = Timed(slices=3, asked_in=set())
    for name in ROBOTS:
        made.observe(observation(1, session=name))
    made.poll()  # decodes the first picture
    asked = []
    for _ in range(4):
        asked.append(made.ask(flow(0), robot))
        made.poll()
        made.poll()
    assert [made.answer(request, robot).queued_s for request in asked] == pytest.approx([0.0] * 4)
    assert made.policy.names()[0::2] == ["flow 0"] * 4


def sessions(made: Served) -> list[str]:
    """Return whose actions have come, in order."""
    return [reply.session for reply in made.replies if isinstance(reply.value, GeneratedAction)]


def test_steps_of_several_robots_are_served_in_the_order_in_which_they_came() -> None:
    made = Timed(slices=3, asked_in=set())
    for name in ("/c", "/a", "/b"):
        made.ask(flow(0), name)
    made.finish()
    assert sessions(made) == ["/c", "/a", "/b"]


def test_a_robot_that_has_granted_many_steps_takes_turns_with_the_others() -> None:
    made = Timed(slices=3, asked_in=set())
    made.ask(flow(0, steps=5), "/b")
    made.poll()
    made.ask(flow(0, steps=2), "/a")
    made.ask(flow(0, steps=3), "/c")
    made.finish()
    assert sessions(made) == ["/b", "/b", "/a", "/c", "/b", "/a", "/c", "/b", "/c", "/b"]
    assert {name: made.steps(name) for name in ROBOTS} == {
        name: [(0, step) for step in range(steps)] for name, steps in zip(ROBOTS, (2, 5, 3), strict=True)
    }


def test_generation_that_never_rests_keeps_no_prefill_of_the_same_robot_for_ever() -> None:
    """A flow ends with its horizon, so even a robot that grants all of it lets the prefill behind it go on."""
    made = Timed(slices=3, asked_in=set())
    for name in ROBOTS:
        made.ask(flow(0, steps=5), name)
        made.observe(observation(1, session=name))
    made.finish()
    assert all(made.report(1, name) for name in ROBOTS)
    assert made.policy.names()[:15] == [f"flow {step}" for step in range(5) for _ in ROBOTS]
