"""How many actions are granted ahead: from the spread of the newest latencies, whatever waits behind each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import Rig
from runtime_cases import PERIOD_S, context

from streaming_vla.machines.generator import GeneratorOptions
from streaming_vla.machines.lead import (
    LATENCIES_REMEMBERED,
    LATENCIES_TO_LEARN,
    MOST_AHEAD,
    UNKNOWN_AHEAD,
    ActionsAhead,
)

OPTIONS = GeneratorOptions(lead_actions=0, control_period_s=PERIOD_S, generate_timeout_s=99.0)


def serve(ahead: ActionsAhead, steps: int, each: float, begin_s: float = 0.0) -> float:
    """Let steps come `each` control periods after their grant, one at a time; return the time."""
    now = begin_s
    for _ in range(steps):
        ahead.on_action(now, 0.0, now + each * PERIOD_S)
        now += max(1.0, each) * PERIOD_S
    return now


@pytest.mark.parametrize(
    ("usual", "slowest", "actions"),
    [(0.2, 0.2, 1), (0.2, 0.21, 1), (0.2, 0.3, 3), (0.2, 0.5, 7), (0.9, 0.9, 1), (0.2, 4.0, MOST_AHEAD)],
)
def test_they_follow_the_spread_of_the_newest_latencies(usual: float, slowest: float, actions: int) -> None:
    """In control periods: the longest, and 1 + 128 / 7 times its distance to the shortest, rounded up."""
    ahead = ActionsAhead()
    assert ahead.actions(PERIOD_S, 1) == UNKNOWN_AHEAD, "nothing is known yet"
    now = serve(ahead, LATENCIES_TO_LEARN, usual)
    now = serve(ahead, 1, slowest, now)
    assert ahead.actions(PERIOD_S, 1) == actions
    assert ahead.actions(PERIOD_S, 5) == max(5, actions)
    serve(ahead, LATENCIES_REMEMBERED, usual, now)
    assert ahead.actions(PERIOD_S, 1) == 1, "a slow one is forgotten"


def test_they_shrink_as_more_latencies_are_known() -> None:
    ahead = ActionsAhead()
    now = serve(ahead, LATENCIES_TO_LEARN, 0.2)
    now = serve(ahead, 1, 0.7, now)
    found = [ahead.actions(PERIOD_S, 1)]
    for _ in range(6):
        now = serve(ahead, 32, 0.2, now)
        found.append(ahead.actions(PERIOD_S, 1))
    assert found == [11, 3, 3, 2, 2, 2, 2], "at last 0.7 + 1.5 x 0.5 periods"


def test_the_cold_first_step_does_not_count() -> None:
    ahead = ActionsAhead()
    now = serve(ahead, 1, 20.0)
    serve(ahead, LATENCIES_TO_LEARN, 0.2, now)
    assert ahead.actions(PERIOD_S, 1) == 1
    assert ahead.latency.summary().max_s == pytest.approx(0.2 * PERIOD_S)


def test_a_clock_that_was_set_back_gives_no_negative_latency() -> None:
    ahead = ActionsAhead()
    ahead.on_action(10.0, 0.01, 9.0)
    ahead.on_action(9.5, 0.01, 9.6)
    assert ahead.latency.summary().max_s == pytest.approx(0.1)


@given(
    st.floats(0.0, 0.2),
    st.floats(0.001, 0.045),
    st.lists(st.tuples(st.floats(0.0, 0.2), st.integers(1, 8)), min_size=1, max_size=12),
)
def test_steps_that_wait_for_each_other_do_not_look_slow(
    way_s: float, work_s: float, grants: list[tuple[float, int]]
) -> None:
    """One model, a way there and back: the latency is way and work, however many steps were granted at once."""
    ahead = ActionsAhead()
    now, free_s = 1.0, 0.0
    arrivals: list[tuple[float, float]] = []
    for after_s, steps in grants:
        now += after_s
        for _ in range(steps):
            free_s = max(now + way_s / 2, free_s) + work_s
            arrivals.append((now, free_s + way_s / 2))
    for granted_s, came_s in arrivals:
        ahead.on_action(granted_s, work_s, came_s)
    if len(arrivals) > 1:
        assert ahead.latency.summary().max_s == pytest.approx(way_s + work_s)


@pytest.mark.parametrize("latency", [0.3, 1.4, 3.2])
@pytest.mark.parametrize("work", [0.1, 0.8])
def test_the_generator_learns_it_from_actions_whose_steps_overlap(latency: float, work: float) -> None:
    """Steps are granted while others are on their way; the executor begins one a period where there is one."""
    rig = Rig(OPTIONS)
    way_s, work_s = max(0.0, latency - work) * PERIOD_S, work * PERIOD_S
    total_s = way_s + work_s
    rig.context(context(0, horizon=400, trained=400))
    free_s, asked_s, on_the_way = 0.0, {0: 0.0}, []
    for tick in range(2000):
        rig.now = tick * PERIOD_S / 10
        while rig.owed(0):
            granted_s = asked_s.get(rig.model[0].step, rig.now)
            free_s = max(granted_s + way_s / 2, free_s) + work_s
            on_the_way.append((free_s + way_s / 2, rig.next_action(0, work_s=work_s)))
        while on_the_way and on_the_way[0][0] <= rig.now:
            rig.arrive(on_the_way.pop(0)[1])
        if tick % 10 == 0 and rig.begun < len(rig.actions):
            rig.begin()
    found = rig.generator.latency.summary()
    assert found.count > 50
    assert total_s - 1e-9 <= found.p50_s <= total_s + PERIOD_S / 10 + 1e-9
    assert rig.generator.actions_ahead <= np.ceil(latency + 1.0) + 3


def test_what_waits_behind_steps_that_nobody_timed_does_not_count() -> None:
    """A context's first steps were granted with its picture; what comes right behind them has waited for them."""
    ahead = ActionsAhead()
    for number in range(4):
        ahead.on_action(None, 0.8, 1.0 + 0.8 * number)
    ahead.on_action(2.0, 0.8, 4.2)
    assert ahead.latency.smoothed_s is None
    for number in range(LATENCIES_TO_LEARN + 1):
        ahead.on_action(4.3 + number, 0.8, 5.4 + number)
    assert ahead.latency.summary().max_s == pytest.approx(1.1)
    ahead.on_action(None, 0.8, 20.0)
    ahead.on_action(19.0, 0.8, 20.8)  # the model was free for it at 20.0 - 0.3 of a way of 0.3
    assert ahead.latency.summary().max_s == pytest.approx(1.1)


def test_a_latency_may_be_known_from_elsewhere() -> None:
    ahead = ActionsAhead()
    for _ in range(LATENCIES_TO_LEARN + 1):
        ahead.learn(2.5 * PERIOD_S)
    assert ahead.actions(PERIOD_S, 1) == 3


def test_what_must_be_in_stock_is_the_spread() -> None:
    ahead = ActionsAhead()
    assert ahead.in_stock(PERIOD_S) == 1, "nothing is known"
    for number in range(LATENCIES_TO_LEARN + 2):
        ahead.learn((0.5 if number % 2 else 3.0) * PERIOD_S)
    assert ahead.in_stock(PERIOD_S) == 3


def test_first_steps_of_a_context_to_come_say_nothing() -> None:
    rig = Rig(OPTIONS)
    rig.context(0)
    rig.answer(0)
    known = rig.generator.latency.summary().count
    rig.picture(1)
    rig.now = 5.0
    rig.context(1)
    rig.answer(1)
    assert rig.generator.latency.summary().count == known
