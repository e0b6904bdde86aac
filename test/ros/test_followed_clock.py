"""Time as a node's deadlines see it: its own, or a published clock's that slows down, stands still, jumps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.ros.followed_clock import JUMP_S, MOST_STEPS_AHEAD, FollowedClock

TICK_S = 0.05


def run(clock: FollowedClock, pace: float, begin_s: float, seconds: float, told_s: float) -> tuple[float, float]:
    """Let a simulation tick at `pace` of real time and read often; return the newest time and tick."""
    newest = clock.read(told_s, begin_s)
    for step in range(1, round(seconds / 0.005) + 1):
        passed_s = 0.005 * step
        tick = told_s + TICK_S * int(passed_s * pace / TICK_S + 1e-9)
        newest = clock.read(tick, begin_s + passed_s)
    return newest, tick


def test_without_a_published_clock_it_is_the_process() -> None:
    clock = FollowedClock(100.0)
    assert clock.read(None, 100.0) == 100.0
    assert clock.read(None, 107.5) == 107.5


@pytest.mark.parametrize("pace", [1.0, 0.6, 0.25])
def test_time_passes_as_fast_as_the_published_clock(pace: float) -> None:
    clock = FollowedClock(100.0)
    newest, _ = run(clock, pace, 100.0, 10.0, 7.0)
    assert newest - 100.0 == pytest.approx(10.0 * pace, abs=2 * TICK_S)


def test_between_two_ticks_it_goes_on_at_the_pace_of_those_before() -> None:
    clock = FollowedClock(0.0)
    newest, tick = run(clock, 0.5, 0.0, 5.0, 0.0)
    assert clock.read(tick, 5.02) - newest == pytest.approx(0.01, abs=0.003)


def test_it_stands_still_with_the_simulation() -> None:
    clock = FollowedClock(0.0)
    newest, tick = run(clock, 1.0, 0.0, 5.0, 0.0)
    stopped = clock.read(tick, 9.0)
    assert stopped - newest <= MOST_STEPS_AHEAD * TICK_S
    assert clock.read(tick, 99.0) == stopped
    later, _ = run(clock, 1.0, 99.0, 1.0, tick)
    assert later - newest == pytest.approx(1.0, abs=0.1), "nothing is made up for, nothing is lost"


@pytest.mark.parametrize("jump_s", [-50.0, 3600.0, JUMP_S + 0.01])
def test_a_clock_that_jumps_is_another_clock(jump_s: float) -> None:
    clock = FollowedClock(0.0)
    newest, tick = run(clock, 1.0, 0.0, 2.0, 60.0)
    jumped = clock.read(tick + jump_s, 2.0)
    assert jumped - newest == pytest.approx(JUMP_S), "what was heard before is old, and nothing more"
    later, _ = run(clock, 1.0, 2.0, 1.0, tick + jump_s)
    assert later - jumped == pytest.approx(1.0, abs=2 * TICK_S)


def test_a_process_that_did_not_run_knows_how_long_it_was() -> None:
    clock = FollowedClock(0.0)
    newest, tick = run(clock, 1.0, 0.0, 2.0, 60.0)
    assert clock.read(tick + 3.0, 5.0) - newest == pytest.approx(3.0, abs=TICK_S)


@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(0.0, 5.0)), st.floats(0.0, 2.0)), max_size=50))
def test_it_never_goes_back(read: list[tuple[float | None, float]]) -> None:
    clock, now_s, before = FollowedClock(10.0), 10.0, 10.0
    for told_s, passed_s in read:
        now_s += passed_s
        time_s = clock.read(told_s, now_s)
        assert before <= time_s
        before = time_s


@pytest.mark.parametrize("pace", [1.0, 0.4])
def test_it_says_how_long_to_wait_and_when_only_a_tick_ends_the_wait(pace: float) -> None:
    clock = FollowedClock(0.0)
    assert clock.until(3.0, 0.0) == 3.0, "without a published clock"
    newest, tick = run(clock, pace, 0.0, 8.0, 0.0)
    wanted_s = newest + 0.6 * TICK_S
    wait_s = clock.until(wanted_s, 8.0)
    assert clock.read(tick, 8.0 + 0.9 * wait_s) < wanted_s
    assert clock.read(tick, 8.0 + wait_s + 1e-6) == pytest.approx(wanted_s)
    assert clock.until(wanted_s, 8.0 + wait_s + 1e-6) <= 1e-6
    assert clock.until(newest + 3 * TICK_S, 8.0) == math.inf
