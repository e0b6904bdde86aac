"""How smoothly an episode went: T_action, T_halt and time to first action, from the executor's states."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streaming_vla.machines.events import ExecutionState, Mode
from streaming_vla.machines.stops import stop_of


@dataclass(frozen=True)
class Halting:
    """Halting of one episode; times in milliseconds, NaN where nothing was counted.

    Args:
        executed: actions begun.
        hand_overs: times that an action of a newer context followed one of an older.
        t_action_ms: T_e + starved time per action: what one action takes, with its share of halting.
        t_halt_ms: mean time without an action to execute, per hand-over; one without a gap counts as 0, and the gap
            before a stop as a hand-over that did not come.
        t_halt_p95_ms: 95th percentile of the same.
        longest_ms: longest of the same.
        first_action_ms: first state of the episode to its first action.
        halts_ms: time without an action, of each hand-over and of the gap before a stop.
        starved_ms: time without an action, all of it.
        stopped: why the executor stopped the robot by itself, one sentence; empty when it did not.
    """

    executed: int
    hand_overs: int
    t_action_ms: float
    t_halt_ms: float
    t_halt_p95_ms: float
    longest_ms: float
    first_action_ms: float
    halts_ms: tuple[float, ...] = ()
    starved_ms: float = 0.0
    stopped: str = ""


def measure(
    states: Sequence[tuple[float, ExecutionState]], control_period_s: float, succeeded: bool = False
) -> Halting:
    """Return the halting of one episode.

    The gaps are read from the executor's own `starved_s`, so that neither transport nor the reader's clock
    adds to them. One that ends in the executor's stop counts up to there.

    Args:
        states: (time of reception in seconds, state) in order, of one episode.
        control_period_s: T_e, seconds an action lasts.
        succeeded: the episode has reached its goal: no action was missing after the last one.

    Raises:
        ValueError: states of more than one episode.
    """
    episodes = {state.episode for _, state in states}
    if len(episodes) > 1:
        raise ValueError(f"halting is measured per episode, but these states are of episodes {sorted(episodes)}")
    begun = [(time, state) for time, state in states if state.executed > 0]
    if not begun:
        return Halting(0, 0, *(5 * (math.nan,)))
    halts_s: list[float] = []
    starved_s = 0.0  # at the newest hand-over
    executed, starved_at_action_s, hand_overs = 0, 0.0, 0
    moving = list(itertools.takewhile(lambda at: at[1].mode is not Mode.ERROR, begun))
    ended = begun[len(moving)] if len(moving) < len(begun) else begun[-1]  # the executor counts on after its stop
    for _, state in (*moving, ended):
        if state.hand_overs > hand_overs:
            halts_s += [0.0] * (state.hand_overs - hand_overs - 1)  # states that were lost on the way
            halts_s.append(state.starved_s - starved_s)
            hand_overs, starved_s = state.hand_overs, state.starved_s
        if state.executed > executed:
            executed, starved_at_action_s = state.executed, state.starved_s
    hand_overs = len(halts_s)
    # a gap that the time limit cut off says not how long it would have lasted
    total_s = starved_at_action_s
    if ended[1].mode is Mode.ERROR and not succeeded and ended[1].starved_s > starved_at_action_s:
        total_s = ended[1].starved_s
        halts_s.append(total_s - starved_s)
    t_halt = [1000.0 * value for value in halts_s] or [math.nan]
    return Halting(
        executed=executed,
        hand_overs=hand_overs,
        t_action_ms=1000.0 * (control_period_s + total_s / executed),
        t_halt_ms=float(np.mean(t_halt)),
        t_halt_p95_ms=float(np.percentile(t_halt, 95)),
        longest_ms=max(t_halt),
        first_action_ms=1000.0 * (begun[0][0] - states[0][0]),
        halts_ms=tuple(1000.0 * value for value in halts_s),
        starved_ms=1000.0 * total_s,
        stopped=stop_of([state for _, state in states]),
    )
