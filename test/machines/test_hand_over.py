"""Hand-over: what a new flow starts from, the bound on the jump, and what the model is told of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runtime_cases import ACTS, EPISODE, LAYOUT, PERIOD_S, PLAYS, context, only

from streaming_vla.machines.events import (
    Action,
    Command,
    CommandKind,
    ContextReady,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    ObserveRequest,
    Reason,
)
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator import Generator, GeneratorEffect
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.hand_over import HandOver, learned_delay, skipped_actions
from streaming_vla.policies.layout import ActionLayout

OPTIONS = GeneratorOptions(**ACTS, lead_actions=2, trained_delay=4)
EXECUTOR = ExecutorOptions(**PLAYS, control_period_s=PERIOD_S, robot_timeout_s=60.0)


class Pair:
    """A generator and the executor that it feeds; the test plays the model, which hears of requests at once."""

    def __init__(self, options: GeneratorOptions) -> None:
        self.generator = Generator(LAYOUT, options)
        self.executor = Executor(LAYOUT, EXECUTOR)
        self.now = 0.0
        self.flows: dict[int, GenerateRequest] = {}  # the newest beginning of each, `step` moved on
        self.plays: list[Command] = []
        self.requests: list[GenerateRequest] = []
        self.executor.on_robot_state(0.0)
        self._take(self.executor.on_episode(EPISODE, 0.0))
        self.carry(self.generator.on_episode(EPISODE, 0.0))

    def carry(self, effects: list[GeneratorEffect]) -> None:
        """Hand over what the generator says."""
        self.requests += only(effects, GenerateRequest)
        for request in only(effects, GenerateRequest):
            flow = self.flows.get(request.context)
            if flow is None or flow.revision < request.revision:
                self.flows[request.context] = request
            else:
                self.flows[request.context] = replace(flow, until=request.until)
        for action in only(effects, Action):
            self._take(self.executor.on_action(action, self.now))

    def context(self, sequence: int, horizon: int = 4, trained: int = 6) -> None:
        """A context is ready."""
        self.carry(self.generator.on_context(context(sequence, horizon, trained), self.now))

    def picture(self, sequence: int) -> None:
        """The picture of an observation is taken."""
        self.carry(self.generator.on_request(ObserveRequest(7, sequence, Reason.EARLY), self.now))

    def answer(self, sequence: int, *values: float, after_s: float = 0.0, work_s: float = 0.0) -> GenerateRequest:
        """Do the next granted step of a context; return it, as the model was asked for it."""
        flow = self.flows[sequence]
        assert flow.step < flow.until, "it is not granted"
        self.flows[sequence] = replace(
            flow, step=flow.step + 1, position=LAYOUT.advance(flow.position, np.array(values))
        )
        self.now += after_s
        numbers = (flow.episode, flow.context, flow.revision, flow.step)
        action = GeneratedAction(*numbers, True, np.array(values), compute_s=work_s)
        self.carry(self.generator.on_generated(action, self.now))
        return flow

    def owed(self, sequence: int) -> bool:
        """Return whether a step of a context is granted and not done."""
        return sequence in self.flows and self.flows[sequence].step < self.flows[sequence].until

    def period(self) -> None:
        """One control period passes."""
        self.now += PERIOD_S
        self._take(self.executor.on_robot_state(self.now))

    def moves(self) -> list[float]:
        """Return the first dimension of what was played."""
        return [float(play.values[0]) for play in self.plays]

    def _take(self, effects: list[Command | ExecutionState]) -> None:
        self.plays += [command for command in only(effects, Command) if command.kind is CommandKind.PLAY]
        for said in only(effects, ExecutionState):
            self.carry(self.generator.on_execution_state(said, self.now))


def at_hand_over(options: GeneratorOptions, horizon: int = 4, trained: int = 6) -> tuple[Pair, GenerateRequest]:
    """Play 0.1 and 0.2, take the picture while 0.2 begins, then send 0.3 and 0.4; return what the new flow is asked."""
    pair = Pair(options)
    pair.context(0, horizon, trained)
    for value in (0.1, 0.2, 0.3):  # 0.1 begins at once
        pair.answer(0, value, 0.0, 0.5)
    pair.period()  # 0.2 begins
    pair.picture(1)
    pair.answer(0, 0.4, 0.0, 0.5)
    pair.context(1, horizon, trained)
    return pair, pair.flows[1]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("rezero", 0.0),
        ("episode", 0.1 + 0.2 + 0.3 + 0.4),  # executed and pending
        ("pending", 0.2 + 0.3 + 0.4),  # the picture shows the arm after 0.1
    ],
)
def test_what_the_new_flow_starts_from(start: str, expected: float) -> None:
    pair, request = at_hand_over(OPTIONS.changed(hand_over_start=start))
    assert request.step == 0
    assert request.position == pytest.approx([expected, 0.0, 0.5])
    pair.answer(1, 0.7, 0.0, 0.5)
    pair.period()  # 0.3 begins, which makes room
    for _ in range(2):
        pair.period()
    assert pair.moves() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.7])


def test_pending_are_the_actions_that_a_picture_of_now_lacks() -> None:
    pair = Pair(OPTIONS)
    pair.context(0)
    assert pair.generator.hand_over.pending() == pytest.approx(LAYOUT.start()), "nothing was sent"
    pair.answer(0, 0.1, 0.0, 0.5)
    pair.answer(0, 0.2, 0.0, 0.25)
    assert pair.generator.hand_over.pending() == pytest.approx([0.3, 0.0, 0.25]), "0.1 begins now, 0.2 is sent"
    pair.period()
    pair.answer(0, 0.4, 0.0, 0.75)
    assert pair.generator.hand_over.pending() == pytest.approx([0.6, 0.0, 0.75]), (
        "0.2 begins now, the newest grip counts"
    )


def lacked(pair: Pair) -> np.ndarray:
    hand_over = pair.generator.hand_over
    return hand_over.behind_robot(hand_over.sent())


def test_behind_the_robots_state_are_the_actions_that_it_does_not_show() -> None:
    pair = Pair(OPTIONS)
    pair.context(0)
    assert lacked(pair) == pytest.approx(LAYOUT.start()), "nothing was sent"
    pair.answer(0, 0.1, 0.0, 0.5)  # begins at once
    pair.answer(0, 0.2, 0.0, 0.25)
    assert lacked(pair) == pytest.approx([0.3, 0.0, 0.25]), "it has not said where it is"
    for part, left in ((0.0, 0.3), (0.25, 0.275), (1.0, 0.2), (3.0, 0.2)):
        pair.generator.on_robot_state(np.zeros(3), pair.now + part * OPTIONS.control_period_s)
        assert lacked(pair) == pytest.approx([left, 0.0, 0.25]), part
    pair.period()  # 0.2 begins: the state is of before
    pair.answer(0, 0.4, 0.0, 0.75)
    assert lacked(pair) == pytest.approx([0.6, 0.0, 0.75])


def test_a_flow_is_told_what_was_sent_when_its_picture_was_taken() -> None:
    """Its steps are for fixed moments: what the old flow sends meanwhile is executed in the place of its first ones."""
    pair, _ = at_hand_over(OPTIONS)
    (begun,) = (request for request in pair.requests if request.context == 1)
    assert begun.sent is not None and begun.sent[0] == pytest.approx(0.1 + 0.2 + 0.3)
    assert pair.generator.hand_over.sent()[0] == pytest.approx(0.1 + 0.2 + 0.3 + 0.4)


def test_a_starved_robots_picture_shows_all_that_was_executed() -> None:
    pair = Pair(OPTIONS.changed(hand_over_start="pending", overrun=False))
    pair.context(0, horizon=1, trained=1)
    pair.answer(0, 0.1, 0.0, 0.5)
    pair.period()  # nothing follows: it holds
    pair.picture(1)
    pair.context(1)
    assert pair.flows[1].position == pytest.approx([0.0, 0.0, 0.5])


def test_an_unannounced_observation_counts_from_now() -> None:
    pair = Pair(OPTIONS.changed(hand_over_start="pending"))
    pair.context(0)
    pair.answer(0, 0.1, 0.0, 0.5)
    pair.answer(0, 0.2, 0.0, 0.5)
    pair.context(1)
    assert pair.flows[1].position == pytest.approx([0.0, 0.0, 0.5])


def test_the_sum_is_what_the_executor_has_really_commanded() -> None:
    """Limits of the executor change actions; the flow's state follows the robot, not the plan."""
    pair = Pair(OPTIONS.changed(hand_over_start="episode", lead_actions=1))
    pair.executor.update(EXECUTOR.changed(jump_limit=(0.25, 9.0, 9.0)))
    pair.context(0)
    pair.answer(0, 0.9, 0.0, 0.5)
    pair.answer(0, 0.2, 0.0, 0.5)
    assert pair.plays[0].values == pytest.approx([0.25, 0.0, 0.5])
    pair.context(2)
    assert pair.flows[2].position == pytest.approx([0.25 + 0.2, 0.0, 0.5])


def test_sums_from_the_picture_are_what_the_executor_has_really_commanded() -> None:
    pair = Pair(OPTIONS.changed(hand_over_start="pending", lead_actions=1))
    pair.executor.update(EXECUTOR.changed(jump_limit=(0.25, 9.0, 9.0)))
    pair.context(0)
    pair.answer(0, 0.9, 0.0, 0.5)  # begins at once, with 0.25
    assert pair.generator.hand_over.pending() == pytest.approx([0.25, 0.0, 0.5])
    pair.picture(1)
    pair.answer(0, 0.2, 0.0, 0.5)
    pair.period()
    pair.context(1)
    assert pair.flows[1].position == pytest.approx([0.25 + 0.2, 0.0, 0.5])


@pytest.mark.parametrize(
    ("trained_delay", "step", "sum_"), [(4, 0, 0.0), (2, 1, 0.4), (1, 2, 0.3 + 0.4), (0, 2, 0.3 + 0.4)]
)
def test_a_context_that_takes_over_late_begins_later_in_its_flow(trained_delay: int, step: int, sum_: float) -> None:
    """Three actions lack in its picture; two thirds of the overrun of 4 may be skipped."""
    pair, request = at_hand_over(OPTIONS.changed(trained_delay=trained_delay), horizon=4, trained=8)
    skipped_by_the_flow = step - request.step
    assert 0 <= skipped_by_the_flow <= 2, "steps to spare were granted with the picture"
    if not skipped_by_the_flow:
        assert request.position == pytest.approx([sum_, 0.0, 0.5])
    for number in range(skipped_by_the_flow):
        pair.answer(1, 0.9 + number / 100, 0.0, 0.5)
    asked = pair.answer(1, 0.5, 0.0, 0.5)
    assert asked.step == step
    for _ in range(3):
        pair.period()
    assert pair.generator.counters["flow_begun_late"] == (step > 0)
    assert pair.moves() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5]), "none is lost"


def test_a_generator_that_is_new_in_an_episode_does_not_know_how_late_a_context_is() -> None:
    pair = Pair(OPTIONS.changed(trained_delay=0))
    pair.context(0, horizon=4, trained=8)
    for _ in range(4):
        pair.answer(0, 0.1, 0.0, 0.5)
        pair.period()
    pair.generator = Generator(LAYOUT, pair.generator._options)
    pair.flows.clear()
    pair.carry(pair.generator.on_episode(EPISODE, pair.now))
    pair.picture(1)  # before the executor has said anything
    pair.period()
    pair.context(1, horizon=4, trained=8)
    assert pair.flows[1].step == 0 and pair.generator.counters["flow_begun_late"] == 0


def test_the_jump_is_spread_over_actions_and_the_flow_goes_on_from_what_was_sent() -> None:
    pair = Pair(GeneratorOptions(**ACTS, lead_actions=1, hand_over_jump=0.3))
    pair.context(0)
    pair.answer(0, 0.5, 0.0, -1.0)
    pair.answer(0, 0.9, 0.1, -1.0)  # of the old context: no hand-over, no bound
    pair.context(1)
    revisions = set()
    for step, wanted in enumerate((-0.5, -0.5, -0.5, 0.2)):
        asked = pair.answer(1, wanted, 0.0, 1.0)
        revisions.add(asked.revision)
        assert asked.step == step
        pair.period()
    for _ in range(2):
        pair.period()
    assert pair.moves() == pytest.approx([0.5, 0.9, 0.6, 0.3, 0.0, 0.2]), (
        "0.3 an action until the flow's own is reached"
    )
    assert asked.position == pytest.approx([0.6 + 0.3 + 0.0, 0.0, 1.0])
    assert len(revisions) == 4, "each bounded action corrects the flow's state by a new beginning"
    assert pair.plays[2].values[2] == 1.0, "an absolute dimension goes where it is told at once"
    assert pair.generator.counters["jump_limited"] == 3
    assert pair.generator.hand_over.count == 1
    assert pair.generator.hand_over.largest_jump == pytest.approx(1.4)


def test_what_came_from_the_state_before_a_bound_is_not_played() -> None:
    pair = Pair(GeneratorOptions(**ACTS, lead_actions=1, hand_over_jump=0.3))
    pair.context(0)
    pair.answer(0, 0.0, 0.0, 0.0)
    pair.answer(0, 0.0, 0.0, 0.0)
    pair.context(1)
    before = pair.flows[1]
    for value in (0.9, 0.91, 0.92):  # all of them are there before the first is sent
        pair.answer(1, value, 0.0, 0.0)
    pair.period()
    asked = pair.flows[1]
    assert (asked.step, asked.revision) == (1, before.revision + 1)
    assert asked.position == pytest.approx([0.3, 0.0, 0.0])
    assert pair.generator.counters["action_superseded"] == 2
    stale = GeneratedAction(7, 1, before.revision, 3, True, np.full(3, 0.93))
    pair.carry(pair.generator.on_generated(stale, pair.now))
    assert pair.generator.counters["generated_outdated"] == 1
    pair.answer(1, 0.4, 0.0, 0.0)
    for _ in range(2):
        pair.period()
    assert pair.moves() == pytest.approx([0.0, 0.0, 0.3, 0.4])


def test_after_the_bridge_there_is_no_bound() -> None:
    pair = Pair(GeneratorOptions(**ACTS, lead_actions=1, hand_over_jump=0.3))
    pair.context(0)
    for _ in range(2):
        pair.answer(0, 0.0, 0.0, 0.0)
    pair.context(1)
    for wanted in (0.2, 0.9):
        pair.answer(1, wanted, 0.0, 0.0)
        pair.period()
    for _ in range(2):
        pair.period()
    assert pair.moves() == pytest.approx([0.0, 0.0, 0.2, 0.9])


def test_a_chunk_that_is_released_at_once_is_bounded_too_and_corrected() -> None:
    pair = Pair(GeneratorOptions(**ACTS, release="chunk", hand_over_jump=0.3))
    pair.context(0, horizon=2, trained=2)
    for _ in range(2):
        pair.answer(0, 0.0, 0.0, 0.0)
    pair.context(1, horizon=3, trained=3)
    first = pair.flows[1]
    for _ in range(3):
        pair.answer(1, 0.5, 0.0, 0.0)
    corrected = pair.flows[1]
    assert (corrected.step, corrected.until, corrected.revision) == (1, 3, first.revision + 1)
    assert corrected.position == pytest.approx([0.3, 0.0, 0.0])
    for _ in range(2):
        pair.answer(1, 0.5, 0.0, 0.0)
    for _ in range(6):
        pair.period()
    assert pair.moves() == pytest.approx([0.0, 0.0, 0.3, 0.5, 0.5])


def test_rows_of_a_chunk_are_bounded_and_not_asked_for_again() -> None:
    pair = Pair(GeneratorOptions(**ACTS, lead_actions=1, hand_over_jump=0.3))
    ready = replace(context(0, 4, 6), chunk=True)
    for sequence, value in ((0, 0.0), (1, 0.9)):
        pair.carry(pair.generator.on_context(replace(ready, sequence=sequence), pair.now))
        while pair.owed(sequence):
            pair.answer(sequence, value, 0.0, 0.0)
    revision = pair.flows[1].revision
    for _ in range(5):
        pair.period()
    assert pair.moves() == pytest.approx([0.0, 0.0, 0.3, 0.6, 0.9, 0.9])
    assert pair.flows[1].revision == revision


def test_overrun_is_counted() -> None:
    pair = Pair(OPTIONS.changed(lead_actions=1))
    pair.context(0, horizon=2, trained=4)
    for _ in range(4):
        pair.answer(0, 0.1, 0.0, 0.0)
        pair.period()
    assert pair.generator.counters["overrun"] == 2


@pytest.mark.parametrize(
    ("chunk", "delay", "trained_delay", "skipped"),
    [
        (False, 3, 4, 0),
        (False, 6, 4, 2),
        (False, 9, 4, 4),  # at most two thirds of the overrun
        (False, 9, 0, 4),
        (True, 3, 0, 3),
        (True, 30, 0, 15),  # the last row
        (True, 3, 2, 1),
    ],
)
def test_how_many_actions_are_skipped(chunk: bool, delay: int, trained_delay: int, skipped: int) -> None:
    made = ContextReady(7, 0, 10, 16, chunk=chunk)
    assert skipped_actions(made, delay, trained_delay) == skipped


def test_a_policy_says_itself_how_late_it_may_begin_where_the_option_leaves_it_to_it() -> None:
    flow, chunk = (ContextReady(7, 0, 10, 16, trained_delay=3, chunk=chunk) for chunk in (False, True))
    assert (learned_delay(flow, -1), learned_delay(flow, 5), learned_delay(flow, 0)) == (3, 5, 0)
    assert learned_delay(replace(chunk, trained_delay=0), 5) == 0, "the rows of a chunk belong to fixed times"


def test_a_flow_is_near_enough_when_an_absolute_dimension_has_hardly_moved() -> None:
    endless = ActionLayout(("dx", "turn"), (False, True), (-1.0, -np.inf), (1.0, np.inf), (0.0, 0.0))
    bounded = HandOver(LAYOUT)
    assert bounded.is_near(np.array([0.5, 0.0, 0.53]), np.array([0.5, 0.0, 0.5]))
    assert not bounded.is_near(np.array([0.5, 0.0, 0.55]), np.array([0.5, 0.0, 0.5]))
    assert not bounded.is_near(np.array([0.51, 0.0, 0.5]), np.array([0.5, 0.0, 0.5])), "sums count exactly"
    assert not HandOver(endless).is_near(np.array([0.0, 0.001]), np.array([0.0, 0.0]))


@pytest.mark.parametrize(
    ("name", "value"), [("hand_over_start", "middle"), ("hand_over_jump", -0.1), ("hand_over_jump", float("nan"))]
)
def test_options_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"hand_over_{name}"):
        OPTIONS.changed(**{f"hand_over_{name}": value})
