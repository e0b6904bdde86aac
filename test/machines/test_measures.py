"""Counters, latencies, halting, limits, stopwatch, episodes: the small parts of the machines."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_cases import LAYOUT, PERIOD_S, state

from streaming_vla.machines.counters import Counters
from streaming_vla.machines.episodes import Change, CurrentEpisode
from streaming_vla.machines.events import Episode, ExecutionState, Mode
from streaming_vla.machines.halting import measure
from streaming_vla.machines.latency import WINDOW, LatencyTracker
from streaming_vla.machines.limits import Limits
from streaming_vla.machines.stopwatch import Stopwatch
from streaming_vla.saliency.decision import Always, Moment, Never, Verdict


def test_counters_count_by_reason() -> None:
    counters = Counters()
    for reason in ("late", "gap", "late"):
        counters.count(reason)
    assert counters.as_dict() == {"gap": 1, "late": 2}
    assert (counters["late"], counters["never"]) == (2, 0)
    counters.as_dict()["late"] = 9
    assert counters["late"] == 2


def test_latency_leaves_the_warm_up_out() -> None:
    tracker = LatencyTracker(warm_up=2, smoothing=0.5)
    for value in (9.0, 9.0):
        tracker.add(value)
    assert tracker.smoothed_s is None
    assert tracker.summary().count == 0
    assert math.isnan(tracker.summary().p50_s)
    for value in (0.1, 0.3):
        tracker.add(value)
    assert tracker.smoothed_s == pytest.approx(0.2)
    summary = tracker.summary()
    assert (summary.count, summary.max_s) == (2, 0.3)
    assert summary.p50_s == pytest.approx(0.2)


def test_latency_percentiles_are_of_the_newest_and_the_maximum_of_all() -> None:
    tracker = LatencyTracker()
    tracker.add(7.0)
    for index in range(WINDOW):
        tracker.add(index / WINDOW)
    summary = tracker.summary()
    assert (summary.count, summary.max_s) == (WINDOW + 1, 7.0)
    assert summary.p95_s == pytest.approx(0.95, abs=0.01)
    assert summary.p99_s == pytest.approx(0.99, abs=0.01)


@pytest.mark.parametrize("value", [-0.044, math.nan, math.inf])
def test_latency_of_two_clocks_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="one clock"):
        LatencyTracker().add(value)


def test_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    watch.start(1.0)
    watch.start(2.0)
    assert watch.running
    assert watch.total_s(4.0) == 3.0
    watch.stop(4.0)
    watch.stop(9.0)
    assert not watch.running
    watch.start(10.0)
    assert watch.total_s(11.0) == 4.0


def test_episodes_only_go_forward() -> None:
    current = CurrentEpisode()
    steps = [
        (Episode(3, True, "a"), Change.NEW),
        (Episode(3, True, "b"), Change.SAME),
        (Episode(2, True), Change.OLD),
        (Episode(3, False), Change.ENDED),
        (Episode(3, False), Change.SAME),
        (Episode(3, True), Change.OLD),
        (Episode(4, False), Change.ENDED),
        (Episode(9, True), Change.NEW),
    ]
    assert [current.take(episode) for episode, _ in steps] == [change for _, change in steps]
    assert current.runs(9)
    assert not current.runs(4)


def states(*rows: tuple[float, Mode, int, int, float, int]) -> list[tuple[float, ExecutionState]]:
    """Return (time, state) of rows of time, mode, context, executed, starved_s, hand_overs."""
    return [
        (time, replace(state(mode, context, 0, executed=executed), starved_s=starved_s, hand_overs=hand_overs))
        for time, mode, context, executed, starved_s, hand_overs in rows
    ]


def test_halting_is_read_from_the_executors_own_times() -> None:
    halting = measure(
        states(
            (0.0, Mode.WAITING, -1, 0, 0.0, 0),
            (0.5, Mode.PLAYING, 0, 1, 0.0, 0),
            (0.6, Mode.PLAYING, 0, 2, 0.0, 0),
            (0.7, Mode.HOLD, 0, 2, 0.0, 0),
            (0.8, Mode.PLAYING, 1, 3, 0.12, 1),
            (0.9, Mode.PLAYING, 2, 4, 0.12, 2),
            (1.0, Mode.HOLD, 2, 4, 0.12, 2),
            (9.0, Mode.IDLE, 2, 4, 8.0, 2),
        ),
        PERIOD_S,
        succeeded=True,
    )
    assert (halting.executed, halting.hand_overs) == (4, 2)
    assert halting.t_action_ms == pytest.approx(50 + 120 / 4), "what follows the last action of a success is no halt"
    assert halting.t_halt_ms == pytest.approx(60.0)
    assert halting.t_halt_p95_ms == pytest.approx(114.0)
    assert halting.longest_ms == pytest.approx(120.0)
    assert halting.first_action_ms == pytest.approx(500.0)


def test_halting_forgives_lost_states() -> None:
    halting = measure(states((0.0, Mode.PLAYING, 0, 1, 0.0, 0), (1.0, Mode.PLAYING, 3, 8, 0.2, 2)), PERIOD_S)
    assert halting.hand_overs == 2
    assert halting.t_halt_ms == pytest.approx(100.0)


def test_halting_of_nothing() -> None:
    assert measure([], PERIOD_S).executed == 0
    halting = measure(states((0.0, Mode.WAITING, -1, 0, 0.0, 0)), PERIOD_S)
    assert halting.executed == 0
    assert math.isnan(halting.t_action_ms)
    one = measure(states((0.0, Mode.PLAYING, 0, 1, 0.0, 0)), PERIOD_S)
    assert one.t_action_ms == pytest.approx(50.0)
    assert math.isnan(one.t_halt_ms)


def test_halting_is_of_one_episode() -> None:
    with pytest.raises(ValueError, match="per episode"):
        measure([(0.0, state(episode=1)), (0.1, state(episode=2))], PERIOD_S)


VECTORS = st.tuples(*(3 * [st.floats(-1e6, 1e6)])).map(np.array)


@given(values=VECTORS, previous=VECTORS.map(LAYOUT.clip), velocity=st.floats(0.01, 50.0), jump=st.floats(0.01, 3.0))
def test_limits_hold_for_any_value(values: np.ndarray, previous: np.ndarray, velocity: float, jump: float) -> None:
    limits = Limits(velocity=(velocity,) * 3, jump=(jump,) * 3)
    previous = np.where(LAYOUT.absolute, previous, np.clip(previous, -velocity * PERIOD_S, velocity * PERIOD_S))
    limited, hit = limits.apply(LAYOUT, values, previous, PERIOD_S)
    assert (np.abs(limited) <= 1.0).all()
    assert (np.abs(limited - previous) <= jump + 1e-9).all()
    assert (np.abs(limited[:2]) <= velocity * PERIOD_S + 1e-9).all()
    assert abs(limited[2] - previous[2]) <= velocity * PERIOD_S + 1e-9
    assert bool(hit) == bool((limited != values).any())


def test_no_limits_leave_values_inside_the_layout_alone() -> None:
    limited, hit = Limits().apply(LAYOUT, np.array([0.9, -0.9, 1.0]), LAYOUT.start(), PERIOD_S)
    assert limited.tolist() == [0.9, -0.9, 1.0]
    assert hit == []


def test_decisions_without_a_model() -> None:
    moment = Moment(0, None, np.array([True, True, False]))
    assert Always().decide(moment).verdict is Verdict.SEND
    assert Never().decide(moment).verdict is Verdict.SUPPRESS
