"""The baselines: each formula pinned by hand-made numbers, and the queue of the asynchronous client as described."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from baselines.events import Arrival, Planned
from baselines.generator import ChunkGenerator, ChunkGeneratorOptions
from baselines.similarity import Similarity
from baselines.strategies import (
    MERGES,
    AsyncQueue,
    ChunkHandOver,
    FutureState,
    RealTimeChunking,
    Synchronous,
    TemporalEnsembling,
)
from baselines.strategy import Ahead, Strategy
from runtime_cases import ACTS, EPISODE, LAYOUT, PLAYS, state
from world import Timing, World

from streaming_vla.machines.events import (
    Action,
    ContextReady,
    GeneratedAction,
    GenerateRequest,
    Mode,
    ObserveRequest,
    Reason,
)
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.rtc import guide_towards, weights
from streaming_vla.saliency.decision import Moment, Verdict

H = 8
CHUNK = np.stack([np.arange(H) / 10, np.zeros(H), np.ones(H)], axis=1)


def planned_from(context: int, first: int, values: list[float]) -> tuple[Planned, ...]:
    """Return actions that wait, rows `first`, first + 1, ... of a chunk."""
    return tuple(Planned(context, first + row, np.array([value, 0.0, 0.0])) for row, value in enumerate(values))


def firsts(strategy: Strategy, arrival: Arrival) -> list[float]:
    """Return the first dimension of what is sent from now on."""
    return [float(each.values[0]) for each in strategy.merge(arrival).actions]


def test_synchronous_executes_the_first_actions() -> None:
    plan = Synchronous(5).merge(Arrival(3, CHUNK, 0, (), 0))
    assert [each.index for each in plan.actions] == [0, 1, 2, 3, 4] and plan.horizon == 5
    assert Synchronous(5).early_actions(H) is None


@pytest.mark.parametrize(
    ("name", "expected"), [("weighted_average", 0.88), ("latest_only", 0.4), ("average", 1.2), ("conservative", 1.52)]
)
def test_the_four_merges_of_the_asynchronous_queue(name: str, expected: float) -> None:
    """Old 2.0 and new 0.4 at the same time step: 0.3 old + 0.7 new, new, the mean, 0.7 old + 0.3 new."""
    assert set(MERGES) == {"weighted_average", "latest_only", "average", "conservative"}
    merged = firsts(AsyncQueue(name), Arrival(1, CHUNK, 4, planned_from(0, 6, [2.0]), 20))
    assert merged == pytest.approx([expected, 0.5, 0.6, 0.7])


def test_the_asynchronous_queue_discards_the_past_merges_the_overlap_and_appends_the_rest() -> None:
    plan = AsyncQueue().merge(Arrival(1, CHUNK, 3, planned_from(0, 5, [1.0, 1.0, 1.0]), 20))
    assert [each.index for each in plan.actions] == [3, 4, 5, 6, 7], "rows 0 to 2 are of the past"
    values = [each.values[0] for each in plan.actions]
    assert values == pytest.approx([0.3 + 0.21, 0.3 + 0.28, 0.3 + 0.35, 0.6, 0.7])
    assert {each.context for each in plan.actions} == {1} and plan.horizon == 5


@pytest.mark.parametrize(("threshold", "most"), [(0.5, 4), (0.7, 5), (0.0, 0), (1.0, 8)])
def test_the_asynchronous_queue_asks_when_its_share_of_a_chunk_is_queued(threshold: float, most: int) -> None:
    assert AsyncQueue(threshold=threshold).most_queued(H) == most


def test_the_similarity_filter_drops_what_looks_the_same() -> None:
    distance = [0.02]
    moment = Moment(1, np.zeros(3), np.ones(3, dtype=bool))
    similar = Similarity(lambda: distance[0], 0.03)
    assert similar.decide(moment).verdict is Verdict.SUPPRESS
    distance[0] = 0.03
    assert similar.decide(moment).verdict is Verdict.SEND


@pytest.mark.parametrize(("first", "expected"), [("elapsed", [9.0, 0.3, 0.4, 0.5]), ("zero", [9.0, 0.0, 0.1, 0.2])])
def test_a_chunk_takes_over_at_the_execution_horizon_of_the_old_one(first: str, expected: list[float]) -> None:
    strategy = ChunkHandOver(4, first)
    strategy.merge(Arrival(0, CHUNK, 0, (), 0))
    waiting = planned_from(0, 3, [9.0, 8.0, 7.0])  # row 3 is the last that is meant to be executed
    plan = strategy.merge(Arrival(1, CHUNK, 2, waiting, 3))
    assert [each.values[0] for each in plan.actions][:4] == pytest.approx(expected)
    assert plan.horizon == 4
    assert plan.actions[-1].values[0] == pytest.approx(0.7), "the rest is there in case the next chunk is late"


def test_without_overrun_a_chunk_ends_at_its_execution_horizon() -> None:
    plan = ChunkHandOver(4, "zero", overrun=False, early=2).merge(Arrival(0, CHUNK, 0, (), 0))
    assert len(plan.actions) == 4
    assert ChunkHandOver(4, "zero", early=2).early_actions(H) == 2


def ahead(values: list[float], kept: int, delay: int = 0) -> Ahead:
    """Return what lies ahead; the third dimension is absolute."""
    return Ahead(np.array([[value, 0.0, 0.5] for value in values]).reshape(-1, 3), kept, delay, H)


def test_the_future_state_is_that_after_the_actions_before_the_hand_over() -> None:
    strategy = FutureState(LAYOUT, 4)
    shift = strategy.shift(ahead([0.1, 0.2, 0.3, 9.0], kept=3))
    assert shift is not None and shift.count == 3
    assert shift.actions == pytest.approx([0.6, 0.0, 0.5])
    assert strategy.shift(ahead([], kept=0)) is None
    assert firsts(strategy, Arrival(0, CHUNK, 2, (), 2))[:2] == pytest.approx([0.0, 0.1])


def test_the_weights_of_real_time_chunking() -> None:
    """H = 8, d = 2, s = 3: two frozen rows, c = (5 - i) / 4 for i = 2, 3, 4, nothing after."""
    expected = [1.0, 1.0] + [c * (math.exp(c) - 1) / (math.e - 1) for c in (3 / 4, 2 / 4, 1 / 4)] + [0.0] * 3
    assert weights(8, 2, 5) == pytest.approx(expected)
    assert weights(8, 0, 0) == pytest.approx([0.0] * 8), "nothing overlaps"
    assert weights(8, 9, 5) == pytest.approx([1.0] * 5 + [0.0] * 3), "a delay beyond the overlap freezes all of it"


def test_real_time_chunking_is_guided_by_what_is_left_of_the_old_chunk() -> None:
    strategy = RealTimeChunking(least=3, beta=4.0, exact=True)
    left = ahead([0.5, 0.6, 0.7, 0.8, 0.9], kept=0, delay=2)
    planned, options = strategy.planned(left), strategy.denoising
    assert planned is not None and (options.beta, options.exact, options.steps) == (4.0, True, 5)
    guide = guide_towards(planned, left.delay, H, options.beta, options.exact)
    assert guide is not None and (guide.beta, guide.exact) == (4.0, True)
    assert guide.target[:5, 0] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9]) and guide.target.shape == (H, 3)
    assert guide.weight == pytest.approx(weights(H, 2, 5))
    assert strategy.planned(ahead([], kept=0)) is None
    assert strategy.early_actions(H) == 5
    assert firsts(strategy, Arrival(1, CHUNK, 2, planned_from(0, 5, [9.0]), 5)) == pytest.approx(
        [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    )


def test_the_gain_of_the_guidance() -> None:
    """min(beta, (1 - t) / (t r^2)), r^2 = (1 - t)^2 / (t^2 + (1 - t)^2)."""
    guide = Guide(CHUNK, np.ones(H), beta=5.0, exact=False)
    assert guide.gain(0.0) == 5.0
    assert guide.gain(0.5) == pytest.approx(0.5 / (0.5 * 0.5))
    assert guide.gain(0.8) == pytest.approx(0.2 / (0.8 * 0.04 / 0.68))
    assert guide.gain(0.01) == 5.0
    half = Guide(CHUNK, np.full(H, 0.5), beta=5.0, exact=False)
    assert half.correction(CHUNK - 0.2, 0.5) == pytest.approx(np.full((H, 3), 2.0 * 0.2 * 0.5))
    with pytest.raises(ValueError, match="expected \\[H, A\\] and \\[H\\]"):
        Guide(CHUNK, np.ones(H + 1))


def test_temporal_ensembling_weighs_the_oldest_most() -> None:
    strategy = TemporalEnsembling(decay=0.01)
    strategy.begin()
    assert firsts(strategy, Arrival(0, CHUNK, 0, (), 0)) == pytest.approx([0.0])
    assert firsts(strategy, Arrival(1, CHUNK, 0, (), 1)) == pytest.approx([0.1 / (1 + math.exp(-0.01))])
    expected = (0.2 + 0.1 * math.exp(-0.01) + 0.0) / (1 + math.exp(-0.01) + math.exp(-0.02))
    assert firsts(strategy, Arrival(2, CHUNK, 0, (), 2)) == pytest.approx([expected])
    assert firsts(strategy, Arrival(3, CHUNK, 0, (), 2 + H)) == pytest.approx([0.0]), (
        "chunks that have ended say nothing"
    )


def generated(context: int, row: int, values: list[float]) -> GeneratedAction:
    """Return a row of a chunk."""
    return GeneratedAction(7, context, 0, row, True, np.array(values))


class Client:
    """A chunk generator whose actions are begun at once, one per `tick`."""

    def __init__(self, strategy: Strategy, lead: int = 1) -> None:
        self.machine = ChunkGenerator(LAYOUT, strategy, ChunkGeneratorOptions(H, lead))
        self.machine.on_episode(EPISODE, 0.0)
        self.waiting: list[Action] = []
        self.played: list[Action] = []
        self.ready: list[ContextReady] = []

    def request(self, sequence: int) -> GenerateRequest:
        """Take a picture."""
        [request] = self.machine.on_request(ObserveRequest(7, sequence, Reason.EARLY), 0.0)
        assert isinstance(request, GenerateRequest)
        assert (request.context, request.step, request.until) == (sequence, 0, H)
        return request

    def reply(self, sequence: int, value: float) -> None:
        """A chunk arrives row by row: `value` plus a hundredth per row."""
        for row in range(H):
            assert not self.waiting or self.waiting[-1].context != sequence, "nothing of it before all of it is there"
            self._take(self.machine.on_generated(generated(sequence, row, [value + 0.01 * row, 0.0, 0.0]), 0.0))

    def tick(self) -> None:
        """The next action begins, or nothing is there and the robot holds."""
        if self.waiting:
            self.played.append(self.waiting.pop(0))
        last = self.played[-1]
        mode = Mode.PLAYING if self.waiting or self.played else Mode.HOLD
        self._take(
            self.machine.on_execution_state(state(mode, last.context, last.index, executed=len(self.played)), 0.0)
        )

    def values(self) -> list[float]:
        """Return the first dimension of what was played."""
        return [float(action.values[0]) for action in self.played]

    def _take(self, effects: list[object]) -> None:
        self.waiting += [effect for effect in effects if isinstance(effect, Action)]
        self.ready += [effect for effect in effects if isinstance(effect, ContextReady)]


def test_the_asynchronous_client_as_it_is_described() -> None:
    """A chunk of 8, the picture of the next with the third action, its chunk two actions later, 0.3 / 0.7."""
    client = Client(AsyncQueue("weighted_average"))
    client.request(0)
    client.reply(0, 0.0)
    for _ in range(3):
        client.tick()
    client.request(1)  # action 2 begins with this picture: row 0 of the new chunk is its time step
    client.tick()
    client.tick()
    client.reply(1, 0.5)
    while client.waiting:
        client.tick()
    old = [0.01 * step for step in range(8)]
    new = {2 + row: 0.5 + 0.01 * row for row in range(8)}
    # steps 0 to 5 are played or sent when the chunk arrives, 6 and 7 are merged, 8 and 9 are new
    expected = old[:6] + [0.3 * old[step] + 0.7 * new[step] for step in (6, 7)] + [new[8], new[9]]
    assert client.values() == pytest.approx(expected)
    assert [(action.context, action.index) for action in client.played] == [
        *((0, index) for index in range(6)),
        *((1, index) for index in range(4)),
    ]
    assert [(each.sequence, each.execution_horizon) for each in client.ready] == [(0, 8), (1, 4)]


def test_what_is_planned_lines_up_with_the_picture() -> None:
    client = Client(RealTimeChunking(least=2))
    assert client.request(0).planned is None
    client.reply(0, 0.0)
    for _ in range(3):
        client.tick()
    request = client.request(1)
    assert request.planned is not None
    assert request.planned[:, 0] == pytest.approx([0.02, 0.03, 0.04, 0.05, 0.06, 0.07])
    guide = guide_towards(request.planned, request.delay, H)
    assert guide is not None and guide.weight[6:] == pytest.approx([0.0, 0.0])


def test_rows_that_do_not_fit_are_dropped_and_counted() -> None:
    client = Client(AsyncQueue())
    machine = client.machine
    client.reply(0, 0.0)  # never asked for
    client.request(1)
    refused = GeneratedAction(7, 1, 0, 0, False, np.zeros(0), "no_context", "it is not kept")
    machine.on_generated(refused, 0.0)
    client.request(2)
    machine.on_generated(generated(2, 0, [np.nan, 0.0, 0.0]), 0.0)
    client.request(3)
    machine.on_generated(generated(3, 1, [0.0, 0.0, 0.0]), 0.0)  # row 0 was lost
    machine.on_generated(replace(generated(2, 0, [0.0, 0.0, 0.0]), episode=6), 0.0)
    machine.on_request(ObserveRequest(6, 3, Reason.EARLY), 0.0)
    client.request(4)
    client.request(5)
    client.reply(5, 0.0)
    client.reply(4, 0.0)  # overtaken
    assert machine.counters.as_dict() == {
        "row_no_action": 2,
        "row_other_episode": 1,
        "row_refused": 1,
        "row_unexpected": 2 * H,
        "request_other_episode": 1,
    }


def _shifted(state: np.ndarray, source: object) -> np.ndarray:
    assert isinstance(source, ChunkGenerator)
    return state if source.shift is None else state + source.shift.actions


@pytest.mark.parametrize(
    "make",
    [
        RealTimeChunking,
        lambda: ChunkHandOver(10, "elapsed"),
        lambda: ChunkHandOver(10, "zero"),
        lambda: FutureState(LAYOUT, 10),
    ],
)
def test_early_strategies_play_without_a_halt_when_latencies_allow(make: object) -> None:
    timing = Timing(execute_s=0.05, observe_s=0.05, step_s=0.002, horizon=10, trained=16)
    strategy: Strategy = make()  # type: ignore[operator]
    early = strategy.early_actions(16)
    assert early is not None
    monitor = MonitorOptions(
        **ACTS,
        mode="always",
        early_actions=early,
        control_period_s=timing.execute_s,
        max_silence_s=30.0,
        request_timeout_s=0.5,
        warm_up_contexts=1,
        last_chance=False,
    )
    made = World(
        timing,
        monitor,
        lambda: ChunkGenerator(LAYOUT, make(), ChunkGeneratorOptions(16)),  # type: ignore[operator]
        ExecutorOptions(**PLAYS, control_period_s=timing.execute_s),
        chunks=strategy.denoising,
    )
    if isinstance(strategy, FutureState):
        made.prepare = lambda observation: replace(observation, state=_shifted(observation.state, made.generator))
    made.start("go")
    made.run(6.0)
    halting = made.halting()
    assert halting.hand_overs > 8 and halting.longest_ms == pytest.approx(0.0, abs=1e-6)
    assert halting.executed > 110
    if isinstance(strategy, FutureState):
        assert made.straw.states[0] == pytest.approx(0.0) and made.straw.states[-1][0] > 0.0, (
            "it is told where it is going"
        )
    if isinstance(strategy, RealTimeChunking):
        assert made.straw.guides[0] is None and all(guide is not None for guide in made.straw.guides[1:])
        assert made.straw.guides[-1].weight[0] == 1.0  # type: ignore[union-attr]
