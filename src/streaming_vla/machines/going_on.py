"""Whether an episode may go on when a node was started again in it: the monitor's judgement, in sentences.

One rule for every node: a death interrupts the motion, it does not end the episode. The robot is held while the node is
away, and moves again by itself when actions come, within the executor's `respawn_hold_s`. An error ends that, and so
does an executor that is away for longer; what was stopped then stays stopped, whoever is started again.
"""

from __future__ import annotations

import math

from streaming_vla.machines.events import ContextReady, ExecutionState
from streaming_vla.machines.stops import Level, Said

SHORTEST_SILENCE_S = 2.0  # the executor repeats its state twice a second


def longest_silence_s(state: ExecutionState) -> float:
    """Return for how long the executor that said `state` may be silent before the robot moves no more, seconds."""
    return math.inf if state.resumes else max(SHORTEST_SILENCE_S, state.respawn_hold_s)


def given_up(silent_s: float) -> Said:
    """Return what is said of an executor that was away for too long."""
    sentence = f"the executor was not heard for {silent_s:.1f} s: the robot moves again in a new episode only"
    return Said(Level.ERROR, sentence)


def lost_history(context: ContextReady, known: int, allowed: bool) -> Said | None:
    """Return what is said of a history that does not know what the episode has seen, None when it does.

    Args:
        context: the newest one.
        known: sequence of the newest context of the episode before it, -1: there was none.
        allowed: the episode goes on whatever was lost.

    Returns:
        An ERROR where the episode must end.
    """
    if known < 0 or context.history_from <= known:
        return None
    sentence = (
        f"inference was started again in episode {context.episode}: its history begins at observation "
        f"{context.history_from} and knows nothing before it"
    )
    if not context.remembers:
        return Said(Level.WARN, f"{sentence}; newer observations make up for that")
    if allowed:
        return Said(Level.WARN, f"{sentence}, and the episode goes on as continue_without_history says")
    return Said(Level.ERROR, f"{sentence}, so the episode ends: begin a new one, or set continue_without_history")
