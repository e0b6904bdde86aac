"""The simulated clock follows the wall clock, makes up for little, never races, and says how fast it goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.sim.clock import LATE_S, SimulatedClock

TICK_S = 0.01


def run(clock: SimulatedClock, seconds: float, tick_costs_s: float, begin_s: float = 0.0) -> float:
    """Let a machine run that needs `tick_costs_s` for every tick; return the wall clock at the end."""
    now = begin_s
    while now < begin_s + seconds:
        if clock.due(now):
            now += tick_costs_s
            clock.passed(now)
        else:
            now = clock.when()
    return now


@pytest.mark.parametrize("factor", [0.25, 1.0, 2.0])
def test_it_keeps_the_asked_pace_on_a_fast_machine(factor: float) -> None:
    clock = SimulatedClock(TICK_S, factor, 0.0)
    now = run(clock, 20.0, 0.001)
    assert clock.time_s == pytest.approx(factor * now, abs=2 * TICK_S)
    assert clock.achieved(now) == pytest.approx(factor, rel=0.01)
    assert clock.lost_s == 0.0 and clock.slow(now) == ""


def test_a_slow_machine_slows_it_down_and_it_says_so() -> None:
    clock = SimulatedClock(TICK_S, 1.0, 0.0)
    now = run(clock, 20.0, 0.02)
    assert clock.time_s == pytest.approx(now / 2, rel=0.01)
    assert clock.achieved(now) == pytest.approx(0.5, rel=0.02)
    assert clock.lost_s == pytest.approx(now / 2, rel=0.05)
    assert "runs at 0.50 of real time instead of 1" in clock.slow(now)


def test_it_forgets_that_it_was_slow() -> None:
    clock = SimulatedClock(TICK_S, 1.0, 0.0)
    now = run(clock, 10.0, 0.03)
    assert clock.slow(now)
    now = run(clock, 10.0, 0.001, now)
    assert clock.slow(now) == "" and clock.achieved(now) == pytest.approx(1.0, rel=0.01)


def test_a_short_pause_is_made_up_for_and_a_long_one_is_lost() -> None:
    clock = SimulatedClock(TICK_S, 1.0, 0.0)
    run(clock, 1.0, 0.0005)
    now = run(clock, 1.0, 0.0005, 1.0 + 0.8 * LATE_S)
    assert clock.lost_s == 0.0 and clock.time_s == pytest.approx(now, abs=2 * TICK_S)
    now = run(clock, 1.0, 0.0005, now + 3.0)
    assert clock.lost_s == pytest.approx(3.0 - LATE_S, abs=2 * TICK_S)
    assert clock.time_s == pytest.approx(now - clock.lost_s, abs=2 * TICK_S)


def test_it_says_when_a_tick_is_due() -> None:
    clock = SimulatedClock(TICK_S, 0.5, 10.0)
    assert clock.when() == pytest.approx(10.0 + 2 * TICK_S)
    assert clock.when(5) == pytest.approx(10.0 + 10 * TICK_S)
    assert clock.due(clock.when(5) + 1e-6) == 5


def test_a_restart_forgets_what_was_due_and_takes_a_new_pace() -> None:
    clock = SimulatedClock(TICK_S, 1.0, 0.0)
    clock.restart(100.0, 0.5)
    assert clock.due(100.0) == 0 and clock.lost_s == 0.0
    now = run(clock, 10.0, 0.001, 100.0)
    assert clock.time_s == pytest.approx((now - 100.0) / 2, abs=2 * TICK_S)


@given(st.lists(st.floats(0.0, 0.4), max_size=60), st.sampled_from([0.1, 1.0, 2.0]))
def test_time_never_runs_ahead_and_loss_accounts_for_what_is_missing(waits: list[float], factor: float) -> None:
    clock = SimulatedClock(TICK_S, factor, 0.0)
    now = 0.0
    for wait in waits:
        now += wait
        due = clock.due(now)
        assert due <= 1 + LATE_S / (TICK_S / factor)
        if due:
            clock.passed(now, due)
        assert clock.time_s <= factor * now + 1e-9
        behind = now - clock.lost_s - clock.time_s / factor
        assert -1e-9 <= behind <= TICK_S / factor + 1e-9


@pytest.mark.parametrize(("tick_s", "factor"), [(0.0, 1.0), (0.01, 0.0), (0.01, float("nan"))])
def test_what_is_no_clock_is_refused(tick_s: float, factor: float) -> None:
    with pytest.raises(ValueError, match="expected positive numbers"):
        SimulatedClock(tick_s, factor, 0.0)
