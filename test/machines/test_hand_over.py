"""Hand-over: what a new flow starts from, the bound on the jump, and how far ahead the generator runs."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_cases import ACTS, EPISODE, LAYOUT, PERIOD_S, PLAYS, context, only

from streaming_vla.machines.events import (
    Action,
    Command,
    CommandKind,
    ExecutionState,
    FlowReply,
    FlowRequest,
    ObserveRequest,
    Reason,
)
from streaming_vla.machines.executor import Executor
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.generator import (
    MOST_LEAD,
    STEPS_REMEMBERED,
    STEPS_TO_LEARN,
    Generator,
    GeneratorEffect,
)
from streaming_vla.machines.generator_options import GeneratorOptions

OPTIONS = GeneratorOptions(**ACTS, lead_actions=2)
EXECUTOR = ExecutorOptions(**PLAYS, control_period_s=PERIOD_S, robot_timeout_s=60.0)


class Pair:
    """A generator and the executor that it feeds; the test plays the model."""

    def __init__(self, options: GeneratorOptions) -> None:
        self.generator = Generator(LAYOUT, options)
        self.executor = Executor(LAYOUT, EXECUTOR)
        self.now = 0.0
        self.asked: list[FlowRequest] = []
        self.plays: list[Command] = []
        self.executor.on_robot_state(0.0)
        self._take(self.executor.on_episode(EPISODE, 0.0))
        self.carry(self.generator.on_episode(EPISODE, 0.0))

    def carry(self, effects: list[GeneratorEffect]) -> None:
        """Hand over what the generator says."""
        self.asked += only(effects, FlowRequest)
        for action in only(effects, Action):
            self._take(self.executor.on_action(action, self.now))

    def context(self, sequence: int, horizon: int = 4, trained: int = 6) -> None:
        """A context is ready."""
        self.carry(self.generator.on_context(context(sequence, horizon, trained), self.now))

    def picture(self, sequence: int) -> None:
        """The picture of an observation is taken."""
        self.carry(self.generator.on_request(ObserveRequest(7, sequence, Reason.EARLY), self.now))

    def answer(self, *values: float, after_s: float = 0.0) -> FlowRequest:
        """Answer the open flow request; return it."""
        request = self.asked.pop()
        assert not self.asked
        self.now += after_s
        reply = FlowReply(request.episode, request.context, request.index, True, np.array(values))
        self.carry(self.generator.on_flow_reply(reply, self.now))
        return request

    def period(self) -> None:
        """One control period passes."""
        self.now += PERIOD_S
        self._take(self.executor.on_robot_state(self.now))

    def _take(self, effects: list[Command | ExecutionState]) -> None:
        self.plays += [command for command in only(effects, Command) if command.kind is CommandKind.PLAY]
        for said in only(effects, ExecutionState):
            self.carry(self.generator.on_execution_state(said, self.now))


def at_hand_over(options: GeneratorOptions, horizon: int = 4, trained: int = 6) -> tuple[Pair, FlowRequest]:
    """Play 0.1 and 0.2, take the picture while 0.2 begins, then send 0.3 and 0.4; return what the new flow asks."""
    pair = Pair(options)
    pair.context(0, horizon, trained)
    pair.answer(0.1, 0.0, 0.5)  # begins at once
    pair.answer(0.2, 0.0, 0.5)
    pair.answer(0.3, 0.0, 0.5)
    pair.period()  # 0.2 begins
    pair.picture(1)
    pair.answer(0.4, 0.0, 0.5)
    pair.context(1, horizon, trained)
    assert pair.asked == [], "two actions are sent and not begun"
    pair.period()  # 0.3 begins, which makes room
    [request] = pair.asked
    assert request.context == 1
    return pair, request


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("rezero", 0.0),
        ("episode", 0.1 + 0.2 + 0.3 + 0.4),  # executed and pending
        ("pending", 0.2 + 0.3 + 0.4),  # the picture shows the arm after 0.1
    ],
)
def test_what_the_new_flow_starts_from(start: str, expected: float) -> None:
    _, request = at_hand_over(OPTIONS.changed(hand_over_start=start))
    assert request.index == 0
    assert request.position == pytest.approx([expected, 0.0, 0.5])


def test_pending_are_the_actions_that_a_picture_of_now_lacks() -> None:
    pair = Pair(OPTIONS)
    pair.context(0)
    assert pair.generator.pending() == pytest.approx(LAYOUT.start()), "nothing was sent"
    pair.answer(0.1, 0.0, 0.5)
    pair.answer(0.2, 0.0, 0.25)
    assert pair.generator.pending() == pytest.approx([0.3, 0.0, 0.25]), "0.1 begins now, 0.2 is sent"
    pair.period()
    pair.answer(0.4, 0.0, 0.75)
    assert pair.generator.pending() == pytest.approx([0.6, 0.0, 0.75]), "0.2 begins now, the newest grip counts"


def test_a_starved_robots_picture_shows_all_that_was_executed() -> None:
    pair = Pair(OPTIONS.changed(hand_over_start="pending", overrun=False))
    pair.context(0, horizon=1, trained=1)
    pair.answer(0.1, 0.0, 0.5)
    pair.period()  # nothing follows: it holds
    pair.picture(1)
    pair.context(1)
    assert pair.asked[0].position == pytest.approx([0.0, 0.0, 0.5])


def test_an_unannounced_observation_counts_from_now() -> None:
    pair = Pair(OPTIONS.changed(hand_over_start="pending"))
    pair.context(0)
    pair.answer(0.1, 0.0, 0.5)
    pair.context(1)
    pair.answer(0.2, 0.0, 0.5)
    assert pair.asked[0].position == pytest.approx([0.0, 0.0, 0.5])


def test_the_sum_is_what_the_executor_has_really_commanded() -> None:
    """Limits of the executor change actions; the flow's state follows the robot, not the plan."""
    pair = Pair(OPTIONS.changed(hand_over_start="episode", lead_actions=1))
    pair.executor.update(EXECUTOR.changed(jump_limit=(0.25, 9.0, 9.0)))
    pair.context(0)
    pair.answer(0.9, 0.0, 0.5)
    pair.context(1)
    pair.answer(0.2, 0.0, 0.5)
    assert pair.plays[0].values == pytest.approx([0.25, 0.0, 0.5])
    pair.context(2)
    pair.period()
    assert pair.asked[0].position == pytest.approx([0.25 + 0.2, 0.0, 0.5])


def test_sums_from_the_picture_are_what_the_executor_has_really_commanded() -> None:
    pair = Pair(OPTIONS.changed(hand_over_start="pending", lead_actions=1))
    pair.executor.update(EXECUTOR.changed(jump_limit=(0.25, 9.0, 9.0)))
    pair.context(0)
    pair.answer(0.9, 0.0, 0.5)  # begins at once, with 0.25
    assert pair.generator.pending() == pytest.approx([0.25, 0.0, 0.5])
    pair.picture(1)
    pair.context(1)
    pair.answer(0.2, 0.0, 0.5)
    pair.period()
    assert pair.asked[0].position == pytest.approx([0.25 + 0.2, 0.0, 0.5])


@pytest.mark.parametrize(
    ("trained_delay", "step", "sum_"), [(4, 0, 0.0), (2, 1, 0.4), (1, 2, 0.3 + 0.4), (0, 2, 0.3 + 0.4)]
)
def test_a_context_that_takes_over_late_begins_later_in_its_flow(trained_delay: int, step: int, sum_: float) -> None:
    """Three actions lack in its picture; two thirds of the overrun of 4 may be left out."""
    pair, request = at_hand_over(OPTIONS.changed(trained_delay=trained_delay), horizon=4, trained=8)
    assert request.index == step
    assert request.position == pytest.approx([sum_, 0.0, 0.5])
    assert pair.generator.counters["flow_begun_late"] == (step > 0)
    pair.answer(0.5, 0.0, 0.5)
    for _ in range(2):
        pair.period()
    assert [play.values[0] for play in pair.plays] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5]), "none is lost"


def test_a_generator_that_is_new_in_an_episode_does_not_know_how_late_a_context_is() -> None:
    pair = Pair(OPTIONS.changed(trained_delay=0))
    pair.context(0, horizon=4, trained=8)
    for _ in range(4):
        pair.answer(0.1, 0.0, 0.5)
        pair.period()
    pair.generator = Generator(LAYOUT, pair.generator._options)
    pair.asked.clear()
    pair.carry(pair.generator.on_episode(EPISODE, pair.now))
    pair.picture(1)  # before the executor has said anything
    pair.period()
    pair.context(1, horizon=4, trained=8)
    assert pair.asked[0].index == 0 and pair.generator.counters["flow_begun_late"] == 0


def test_the_jump_is_spread_over_actions_and_the_flow_goes_on_from_what_was_sent() -> None:
    pair = Pair(OPTIONS.changed(lead_actions=1, hand_over_jump=0.3))
    pair.context(0)
    pair.answer(0.5, 0.0, -1.0)
    pair.context(1)
    pair.answer(0.9, 0.1, -1.0)  # of the old context: no hand-over, no bound
    for index, wanted in enumerate((-0.5, -0.5, -0.5, 0.2)):
        pair.period()
        request = pair.answer(wanted, 0.0, 1.0)
        assert (request.context, request.index) == (1, index)
    for _ in range(2):
        pair.period()
    moves = [play.values[0] for play in pair.plays]
    assert moves == pytest.approx([0.5, 0.9, 0.6, 0.3, 0.0, 0.2]), "0.3 an action until the flow's own is reached"
    assert request.position == pytest.approx([0.6 + 0.3 + 0.0, 0.0, 1.0])
    assert pair.plays[2].values[2] == 1.0, "an absolute dimension goes where it is told at once"
    assert pair.generator.counters["jump_limited"] == 3
    assert pair.generator.hand_over.count == 1
    assert pair.generator.hand_over.largest_jump == pytest.approx(1.4)


def test_after_the_bridge_there_is_no_bound() -> None:
    pair = Pair(OPTIONS.changed(lead_actions=1, hand_over_jump=0.3))
    pair.context(0)
    pair.answer(0.0, 0.0, 0.0)
    pair.context(1)
    pair.answer(0.0, 0.0, 0.0)
    for wanted in (0.2, 0.9):
        pair.period()
        pair.answer(wanted, 0.0, 0.0)
    for _ in range(2):
        pair.period()
    assert [play.values[0] for play in pair.plays] == pytest.approx([0.0, 0.0, 0.2, 0.9])


def test_overrun_is_counted() -> None:
    pair = Pair(OPTIONS.changed(lead_actions=1))
    pair.context(0, horizon=2, trained=4)
    for _ in range(4):
        pair.answer(0.1, 0.0, 0.0)
        pair.period()
    assert pair.generator.counters["overrun"] == 2


def serve(pair: Pair, steps: int, each_s: float, most: int) -> None:
    """Answer `steps` flow steps after `each_s`, and let actions begin where there is no room."""
    while steps:
        if pair.asked:
            pair.answer(0.0, 0.0, 0.0, after_s=each_s)
            steps -= 1
        else:
            pair.period()
        assert len(pair.generator.hand_over.outstanding) <= most


@pytest.mark.parametrize(
    ("usual", "slowest", "lead"),
    [(0.2, 0.2, 1), (0.2, 0.3, 1), (0.2, 0.5, 3), (0.2, 0.7, 4), (0.9, 0.9, 1), (0.2, 4.0, MOST_LEAD)],
)
def test_the_lead_follows_the_spread_of_the_newest_flow_steps(usual: float, slowest: float, lead: int) -> None:
    """In control periods: the longest, and 1 + 32 / 7 times its distance to the shortest, rounded up."""
    pair = Pair(OPTIONS.changed(lead_actions=0, control_period_s=PERIOD_S, flow_step_timeout_s=60.0))
    pair.context(0, horizon=2000, trained=2000)
    assert pair.generator.lead_actions == 2, "nothing is known yet"
    most = max(2, lead)
    serve(pair, STEPS_TO_LEARN, usual * PERIOD_S, most)
    serve(pair, 1, slowest * PERIOD_S, most)
    assert pair.generator.lead_actions == lead
    serve(pair, STEPS_REMEMBERED, usual * PERIOD_S, most)
    assert pair.generator.lead_actions == 1, "a slow step is forgotten"


def test_the_lead_shrinks_as_more_flow_steps_are_known() -> None:
    pair = Pair(OPTIONS.changed(lead_actions=0, control_period_s=PERIOD_S, flow_step_timeout_s=60.0))
    pair.context(0, horizon=2000, trained=2000)
    serve(pair, STEPS_TO_LEARN, 0.2 * PERIOD_S, 4)
    serve(pair, 1, 0.7 * PERIOD_S, 4)
    leads = [pair.generator.lead_actions]
    for _ in range(6):
        serve(pair, 32, 0.2 * PERIOD_S, 4)
        leads.append(pair.generator.lead_actions)
    assert leads == [4, 2, 2, 2, 2, 2, 2], "at last 0.7 + 0.5 periods"


def test_the_cold_first_flow_step_does_not_count_for_the_lead() -> None:
    pair = Pair(OPTIONS.changed(lead_actions=0, control_period_s=PERIOD_S, flow_step_timeout_s=60.0))
    pair.context(0, horizon=2000, trained=2000)
    serve(pair, 1, 20.0 * PERIOD_S, 2)
    serve(pair, STEPS_TO_LEARN, 0.2 * PERIOD_S, 2)
    assert pair.generator.lead_actions == 1
    assert pair.generator.flow_latency.summary().max_s == pytest.approx(0.2 * PERIOD_S)


@pytest.mark.parametrize(
    ("name", "value"), [("hand_over_start", "middle"), ("hand_over_jump", -0.1), ("hand_over_jump", float("nan"))]
)
def test_options_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        OPTIONS.changed(**{name: value})
