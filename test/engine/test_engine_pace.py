"""The engine on a virtual clock: work takes as long as a latency profile says, and everything else stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import PlanningToy, Served, ToyPolicy, flow, observation, options, question

from kv_cache import CacheView
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.jobs import Work
from streaming_vla.engine.latency_profile import LatencyProfile, Spread
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.values import ContextReport, Reply
from streaming_vla.machines.events import GeneratedAction
from streaming_vla.policies.chunk import ChunkAsStream, ChunkOptions
from streaming_vla.policies.contract import FlowPolicy, Slices
from streaming_vla.policies.guide import Guide, Matrix

torch.set_num_threads(1)
OBSERVE_S, STEP_S = 0.4, 0.03


class Timed(Served):
    """An engine on a virtual clock, and when each reply came."""

    def __init__(
        self,
        policy: FlowPolicy,
        slices: int = 0,
        observe_s: float = OBSERVE_S,
        step_s: float = STEP_S,
        jitter: float = 1.0,
        seed: int = 0,
    ) -> None:
        times = [Spread(1000 * each_s, 1000 * each_s * jitter) for each_s in (observe_s, step_s)]
        profile = LatencyProfile("test", "a test", 50.0, *times, Spread(0.0, 0.0), prefill_slices=slices)
        pace = ProfilePace(profile, seed)
        super().__init__(Engine(policy, options(max_sessions=3), pace, lambda: 0.0, wait_for_futures=True))
        self.came_s: list[float] = []

    def poll(self) -> list[Reply]:
        """Poll once and remember when."""
        came = super().poll()
        self.came_s += [self.now] * len(came)
        return came

    def times(self, kind: type) -> list[float]:
        """Return when the replies of a kind came, seconds."""
        return [s for s, reply in zip(self.came_s, self.replies, strict=True) if isinstance(reply.value, kind)]


def test_a_prefill_and_a_step_take_what_the_profile_says() -> None:
    made = Timed(ToyPolicy())
    made.observe(observation(0))
    made.until(1.0)
    made.ask(flow(0, steps=3))
    made.until(2.0)
    assert made.came_s == pytest.approx([OBSERVE_S, 1.0 + STEP_S, 1.0 + 2 * STEP_S, 1.0 + 3 * STEP_S])
    assert made.report(0).prefill_s == pytest.approx(OBSERVE_S) and made.report(0).queued_s == pytest.approx(0.0)
    assert [action.compute_s for action in made.actions()] == pytest.approx([STEP_S] * 3)
    assert [action.queued_s for action in made.actions()] == pytest.approx([0.0] * 3)
    made.observe(observation(1))
    made.until(3.0)
    assert made.report(1).flow_step_s == pytest.approx(STEP_S), "a virtual clock has no cold first step"


def test_the_deadline_is_the_end_of_the_slice_in_work_and_infinite_when_nothing_is() -> None:
    made = Timed(ToyPolicy(), slices=4)
    assert made.engine.deadline() == float("inf")
    made.observe(observation(0))
    assert made.engine.deadline() == -float("inf")
    made.poll()
    assert made.engine.deadline() == pytest.approx(OBSERVE_S / 4)
    assert made.poll() == [] and made.engine.deadline() == pytest.approx(OBSERVE_S / 4), "nothing is due: no busy loop"
    made.until(9.0)
    assert made.engine.deadline() == float("inf")


def test_steps_go_between_the_slices_of_a_prefill_and_delay_it() -> None:
    made = Timed(ToyPolicy(), slices=4)
    made.observe(observation(0))
    made.until(1.0)
    made.observe(observation(1))
    made.until(1.05)
    made.ask(flow(0, steps=2))
    made.until(3.0)
    assert made.times(GeneratedAction) == pytest.approx([1.1 + STEP_S, 1.1 + 2 * STEP_S]), "at the end of a slice"
    assert made.times(ContextReport)[1] == pytest.approx(1.0 + OBSERVE_S + 2 * STEP_S)
    assert made.report(1).prefill_s == pytest.approx(OBSERVE_S)
    assert made.report(1).queued_s == pytest.approx(2 * STEP_S)


def test_without_slices_a_prefill_has_hardware_of_its_own() -> None:
    made = Timed(ToyPolicy())
    made.observe(observation(0))
    made.until(1.0)
    made.observe(observation(1))
    made.observe(observation(0, session="/b"))
    made.until(1.05)
    made.ask(flow(0, steps=2))
    made.until(3.0)
    assert made.times(GeneratedAction) == pytest.approx([1.05 + STEP_S, 1.05 + 2 * STEP_S])
    assert made.times(ContextReport)[1:] == pytest.approx([1.0 + OBSERVE_S, 1.0 + 2 * OBSERVE_S]), "one at a time"


def test_two_robots_take_turns_and_each_step_takes_its_time() -> None:
    made = Timed(ToyPolicy())
    for name in ("/a", "/b"):
        made.observe(observation(0, session=name))
    made.until(1.0)
    made.replies.clear()
    made.came_s.clear()
    made.ask(flow(0, steps=2), "/a")
    made.ask(flow(0, steps=2), "/b")
    made.until(2.0)
    assert [reply.session for reply in made.replies] == ["/a", "/b", "/a", "/b"]
    assert made.came_s == pytest.approx([1.0 + number * STEP_S for number in range(1, 5)])


@pytest.mark.parametrize("slices", [0, 4])
def test_a_question_takes_the_time_of_a_step_only_if_it_takes_a_plan(slices: int) -> None:
    made = Timed(PlanningToy(), slices)
    made.observe(observation(0))
    made.until(1.0)
    for number in (1, 2):
        made.engine.predict_saliency("/a", question(0, of="plan"), number)
    made.engine.predict_saliency("/a", question(0), 3)
    made.engine.predict_saliency("/a", question(0, 99, of="plan"), 4)
    made.until(2.0)
    assert made.came_s[1:] == pytest.approx([1.0 + STEP_S] * 4), "the plan is kept, and looking ahead costs nothing"
    assert made.engine.worked[Work.PLAN] == 1 and made.engine.worked[Work.LOOK_AHEAD] == 1


@pytest.mark.parametrize("slices", [0, 4])
def test_what_is_refused_takes_no_time(slices: int) -> None:
    policy = ToyPolicy()
    made = Timed(policy, slices)
    made.observe(observation(5))
    made.until(1.0)
    made.observe(observation(3))
    made.ask(flow(4))
    made.engine.predict_saliency("/a", question(9, of="plan"), 1)
    made.until(1.0)
    assert [reply.value.code for reply in made.replies[1:]].count("") == 0 and len(made.replies) == 4
    policy.hook = lambda name: 1 // 0 and None
    made.observe(observation(6))
    made.until(9.0)
    assert made.refusal(6).code == "policy_failed"
    assert not made.engine._lanes._left_s


@pytest.mark.parametrize(("episode", "code"), [(1, "reset"), (7, "reset")])
def test_a_reset_stops_a_prefill_whose_time_has_begun_but_not_its_work(episode: int, code: str) -> None:
    policy = ToyPolicy()
    made = Timed(policy, slices=4)
    made.observe(observation(3, episode=episode))
    made.until(0.15)
    made.engine.reset("/a", 1, 1)
    made.until(9.0)
    assert made.refusal(3).code == code and policy.log == []
    made.observe(observation(0))
    made.until(19.0)
    assert made.report(0).episode == 1, "the reset is not undone"


def test_a_newer_episode_stops_a_prefill_whose_time_has_begun() -> None:
    policy = ToyPolicy()
    made = Timed(policy, slices=4)
    made.observe(observation(3))
    made.until(0.15)
    made.observe(observation(0, episode=2, mark=2.0))
    made.until(9.0)
    assert made.refusal(3).code == "old_episode" and made.report(0).episode == 2
    assert made.times(ContextReport) == pytest.approx([0.2 + OBSERVE_S])
    assert {mark for _, mark in policy.log} == {2.0}


def test_a_grant_that_comes_while_the_last_granted_step_is_in_work_is_not_forgotten() -> None:
    made = Timed(ToyPolicy())
    made.observe(observation(0))
    made.until(1.0)
    request = made.ask(flow(0))
    made.until(1.0 + STEP_S / 2)
    made.ask(replace(request, step=1, until=2))
    made.until(2.0)
    assert made.steps() == [(0, 0), (0, 1)]
    assert made.came_s[1:] == pytest.approx([1.0 + STEP_S, 1.0 + 2 * STEP_S])


@pytest.mark.parametrize(("slices", "code"), [(0, "no_context"), (4, "")])
def test_a_context_cannot_be_asked_before_the_time_of_its_prefill_is_over(slices: int, code: str) -> None:
    """All of its work is done at the begin of the last slice; on shared hardware a question waits for its end."""
    made = Timed(PlanningToy(), slices)
    made.observe(observation(0))
    made.ask(flow(0))
    made.until(0.99 * OBSERVE_S)
    made.engine.predict_saliency("/a", question(0, of="plan"), 1)
    made.until(9.0)
    assert made.result(1).code == code
    assert made.times(GeneratedAction) == pytest.approx([OBSERVE_S + STEP_S])


def test_credits_for_a_context_to_come_give_its_first_action_a_step_behind_it() -> None:
    made = Timed(ToyPolicy())
    made.observe(observation(0))
    made.ask(flow(0, steps=2))
    made.until(2.0)
    assert made.came_s == pytest.approx([OBSERVE_S, OBSERVE_S + STEP_S, OBSERVE_S + 2 * STEP_S])
    assert [action.queued_s for action in made.actions()] == pytest.approx([0.0, 0.0])


class Chunks(ToyPolicy):
    """A toy of chunks: rows count up, with the mark of the robot."""

    def denoise(
        self, view: CacheView, context: object, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Matrix]:
        """Take `steps` slices."""
        for step in range(steps):
            self.do(f"denoise {step}", float(view.values[0, 0, -1, 0]))
            if step + 1 < steps:
                yield None
        return np.stack([np.arange(5) / 10, np.full(5, float(view.values[0, 0, -1, 0]) / 1000)], axis=1)


@pytest.mark.parametrize("slices", [0, 4])
def test_a_chunk_is_denoised_behind_its_prefill_and_its_rows_cost_nothing(slices: int) -> None:
    policy = Chunks()
    made = Timed(ChunkAsStream(policy, ChunkOptions(steps=3)), slices)
    made.observe(observation(0))
    made.ask(flow(0, steps=5))
    made.until(2.0)
    assert made.came_s == pytest.approx([OBSERVE_S + 3 * STEP_S] * 6)
    assert made.report(0).chunk and made.report(0).prefill_s == pytest.approx(OBSERVE_S + 3 * STEP_S)
    assert [action.values[0] for action in made.actions()] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert made.engine.worked == {Work.PREFILL: 1, Work.DENOISE: 3, Work.ROW: 5}


def test_rows_of_a_chunk_go_between_the_denoising_of_the_next() -> None:
    made = Timed(ChunkAsStream(Chunks(), ChunkOptions(steps=3)))
    made.observe(observation(0))
    made.until(1.0)
    made.observe(observation(1))
    made.observe(observation(0, session="/b"))
    made.until(1.0 + OBSERVE_S + STEP_S / 2)
    made.ask(flow(0), "/a")
    made.until(9.0)
    assert made.times(GeneratedAction) == pytest.approx([1.0 + OBSERVE_S + STEP_S])
    assert made.report(1).sequence == 1 and made.report(0, "/b").sequence == 0


def run(seed: int, jitter: float = 3.0) -> list[tuple[float, object]]:
    """Return when what came of a little of everything."""
    made = Timed(ToyPolicy(), slices=3, jitter=jitter, seed=seed)
    for sequence in range(5):
        made.observe(observation(sequence))
        made.ask(flow(sequence, steps=3, revision=1))
        made.until(made.now + 0.7)
    return [(came_s, type(reply.value)) for came_s, reply in zip(made.came_s, made.replies, strict=True)]


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    assert run(0) == run(0) != run(1)


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.floats(0.0, 1.0), st.sampled_from("abc"), st.integers(1, 5)), max_size=12),
)
def test_whatever_is_asked_a_step_waits_for_a_slice_and_the_other_robots_steps_at_most(
    slices: int, asked: list[tuple[float, str, int]]
) -> None:
    made = Timed(ToyPolicy(), slices)
    for name in "abc":
        made.observe(observation(0, session=f"/{name}"))
    made.until(10.0)
    for name in "abc":
        made.observe(observation(1, session=f"/{name}"))
    for after_s, name, steps in sorted(asked):
        made.until(10.0 + after_s)
        made.ask(flow(0, steps=steps), f"/{name}")
    made.until(30.0)
    slice_s = OBSERVE_S / slices if slices else 0.0
    for name in "abc":
        assert made.report(1, f"/{name}").sequence == 1
        assert all(action.queued_s <= slice_s + 3 * STEP_S + 1e-9 for action in made.actions(f"/{name}"))
    assert made.engine.deadline() == float("inf")
