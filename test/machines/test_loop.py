"""The machines together reproduce the timing model, and come back from every fault.

With T_o from request to context, `step` for one flow step and T_e for one action, the executor halts for
T_o + H step (synchronous), T_o + step (action flow, sequential), max(0, T_o + step - m T_e) (early, m actions left).
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import Timing, World

from streaming_vla.machines.events import Action, CommandKind, Mode, Reason
from streaming_vla.machines.executor import ExecutorOptions
from streaming_vla.machines.generator import GeneratorOptions
from streaming_vla.machines.monitor import MonitorOptions

PAPER = Timing()
TIMINGS = [
    PAPER,
    Timing(execute_s=0.05, observe_s=0.12, step_s=0.011, horizon=8, trained=8),
    Timing(execute_s=0.02, observe_s=0.005, step_s=0.003, horizon=5, trained=5),
]
EXECUTOR = ExecutorOptions(hold_s=1.0, decelerate_s=1.0, max_action_age_s=2.0, robot_timeout_s=0.2)


def world(
    timing: Timing = PAPER,
    mode: str = "off",
    early: int = 0,
    release: str = "stream",
    overrun: bool = False,
    lead: int = 1,
    **faults: object,
) -> World:
    """Return a world in an episode."""
    made = World(
        timing,
        MonitorOptions(mode, early, lead, timing.execute_s, 30.0, 0.5, 1),
        GeneratorOptions(release, overrun, lead, 0.3),
        replace(EXECUTOR, control_period_s=timing.execute_s),
        **faults,  # type: ignore[arg-type]
    )
    made.start("go")
    return made


def check_halting(made: World, expected_s: float, timing: Timing, per_context: int | None = None) -> None:
    """Run and compare T_halt of every hand-over and T_action with the model."""
    made.run(10.0)
    halting = made.halting()
    assert halting.hand_overs > 10
    assert halting.t_halt_ms == pytest.approx(1000 * expected_s, abs=0.5)
    assert halting.longest_ms == pytest.approx(1000 * expected_s, abs=0.5)
    per_context = timing.horizon if per_context is None else per_context
    t_action_s = timing.execute_s + expected_s / per_context
    assert halting.t_action_ms == pytest.approx(1000 * t_action_s, rel=0.05)  # the first context follows no halt
    sizes = Counter(context for context, _ in made.played())
    assert {sizes[context] for context in list(sizes)[:-1]} == {per_context}


@pytest.mark.parametrize("timing", TIMINGS)
def test_synchronous_halts_for_observation_and_the_whole_chunk(timing: Timing) -> None:
    made = world(timing, release="chunk")
    check_halting(made, timing.observe_s + timing.horizon * timing.step_s, timing)
    assert set(made.reasons()) == {Reason.START, Reason.QUEUE_EMPTY}


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("lead", [1, 3])
def test_action_flow_halts_for_observation_and_one_step(timing: Timing, lead: int) -> None:
    check_halting(world(timing, lead=lead), timing.observe_s + timing.step_s, timing)


@pytest.mark.parametrize("timing", TIMINGS[:2])
@pytest.mark.parametrize("m", [1, 2])
def test_early_observation_halts_m_actions_less(timing: Timing, m: int) -> None:
    halt_s = timing.observe_s + timing.step_s - m * timing.execute_s
    assert halt_s > 0.0
    made = world(timing, mode="always", early=m)
    check_halting(made, halt_s, timing)
    assert set(made.reasons()) == {Reason.START, Reason.EARLY}


def test_the_published_numbers() -> None:
    """231 ms synchronous, 76.1 ms action flow, 22 ms with m = 2, 0 with m = 3."""
    found = []
    for made in (
        world(release="chunk"),
        world(),
        world(mode="always", early=2),
        world(mode="always", early=3),
    ):
        made.run(10.0)
        found.append(made.halting().t_halt_ms)
    assert found == pytest.approx([231.0, 76.2, 22.2, 0.0], abs=0.1)


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("overrun", [False, True])
@pytest.mark.parametrize("lead", [1, 2])
def test_m_from_measured_latencies_halts_only_while_it_is_learned(timing: Timing, overrun: bool, lead: int) -> None:
    made = world(replace(timing, trained=timing.horizon + 4), mode="always", overrun=overrun, lead=lead)
    made.run(10.0)
    halting = made.halting()
    assert halting.hand_overs > 20
    learned = next(state for _, state in made.states if state.hand_overs == 3)
    assert made.states[-1][1].starved_s == pytest.approx(learned.starved_s), "no halt after the first contexts"
    sizes = Counter(context for context, _ in made.played())
    assert max(list(sizes.values())[3:]) <= timing.horizon, "measured early enough to need no overrun"


def test_overrun_bridges_a_slow_observation() -> None:
    timing = Timing(trained=16)
    made = world(timing, mode="off", overrun=True)
    made.run(5.0)
    assert made.halting().t_halt_ms > 0.0, "off asks when the trained horizon is used up"
    made = world(timing, mode="always", early=2, overrun=True)
    made.run(5.0)
    assert made.halting().longest_ms == pytest.approx(0.0, abs=1e-6)
    assert max(index for _, index in made.played()) >= 10, "by going on with the old context"


def in_order(played: list[tuple[int, int]]) -> bool:
    """True when every action follows the one before: next index, or index 0 of a newer context."""
    return all(
        after == (before[0], before[1] + 1) or (after[0] > before[0] and after[1] == 0)
        for before, after in itertools.pairwise(played)
    )


@given(st.lists(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.004, 0.09, 0.6]), max_size=2), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_no_network_makes_the_executor_play_out_of_order(fates: list[list[float]]) -> None:
    remaining = list(fates)

    def deliver(action: Action) -> tuple[float, ...]:
        return tuple(remaining.pop(0)) if remaining else (0.0,)

    made = world(mode="always", overrun=True, deliver=deliver)
    made.run(12.0)
    assert in_order(made.played())
    values = {(action.context, action.index): action.values for action in made.actions}
    plays = [command for _, command in made.commands if command.kind is CommandKind.PLAY]
    assert len(plays) == len(made.played())
    for command, key in zip(plays, made.played(), strict=True):
        assert np.array_equal(command.values, values[key])
    waiting_s = [made.now - time for time, state in made.states if state.mode is Mode.PLAYING][-1]
    over = made.states[-1][1].mode is Mode.ERROR
    assert over or waiting_s < 0.1, "the loop stands still"


def test_one_flow_step_at_a_time_and_never_ahead_of_the_lead() -> None:
    made = world(mode="always", overrun=True, lead=2)
    made.run(5.0)
    begins = [span.begin_s for span in made.record.spans if span.stage == "flow_step"]
    assert min(b - a for a, b in itertools.pairwise(begins)) >= PAPER.step_s - 1e-9
    depths = [state.queue_depth for _, state in made.states if state.executed > 2]
    assert max(depths) <= 2


@pytest.mark.parametrize("machine", ["generator", "executor", "observer", "monitor"])
@pytest.mark.parametrize("at_s", [1.0, 1.013, 1.05, 1.21])
@pytest.mark.parametrize("release", ["stream", "chunk"])
def test_a_machine_that_was_restarted_joins_in(machine: str, at_s: float, release: str) -> None:
    made = world(mode="always" if release == "stream" else "off", overrun=True, release=release)
    made.run(at_s)
    getattr(made, f"new_{machine}")()
    made.run(2.0)
    before = len(made.played())
    made.run(1.0)
    assert len(made.played()) - before >= 15, "the suite does not resume"
    assert made.states[-1][1].mode is not Mode.ERROR
    assert made.states[-1][1].episode == 1


def test_a_dead_engine_is_held_within_two_periods_and_resumed() -> None:
    made = world(mode="always", overrun=True)
    made.run(1.0)
    made.faulty.connected = False
    made.run(0.6)
    last_play_s = max(time for time, command in made.commands if command.kind is CommandKind.PLAY)
    first_hold_s = min(
        time for time, command in made.commands if command.kind is CommandKind.HOLD and time > last_play_s
    )
    assert first_hold_s - last_play_s <= 2 * PAPER.execute_s
    made.faulty.connected = True
    made.run(1.5)
    assert made.states[-1][1].mode in (Mode.PLAYING, Mode.HOLD)
    before = len(made.played())
    made.run(1.0)
    assert len(made.played()) - before > 30


def test_a_dead_engine_ends_in_an_error_and_the_next_episode_runs() -> None:
    made = world(mode="always", overrun=True)
    made.run(1.0)
    made.faulty.connected = False
    made.run(5.0)
    assert made.states[-1][1].mode is Mode.ERROR
    assert made.commands[-1][1].kind is CommandKind.STOP
    asked = len(made.requests)
    made.run(5.0)
    assert len(made.requests) == asked, "nobody asks for an executor in error"
    made.faulty.connected = True
    made.start("go")
    made.run(1.0)
    assert made.states[-1][1].mode is Mode.PLAYING
    assert made.states[-1][1].episode == 2


def test_a_robot_that_falls_silent_is_held_and_goes_on() -> None:
    made = world(mode="always", overrun=True)
    made.run(1.0)
    made.robot_alive = False
    made.run(0.8)
    assert made.states[-1][1].mode is Mode.HOLD
    starved_s = made.states[-1][1].starved_s
    made.robot_alive = True
    made.run(1.5)
    assert made.states[-1][1].mode is Mode.PLAYING
    assert in_order(made.played())
    assert starved_s == pytest.approx(0.0, abs=0.08), "a silent robot is not halting of the policy"
