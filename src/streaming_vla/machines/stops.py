"""What is said when the executor holds, decelerates, stops and goes on: one sentence for every change of its mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from streaming_vla.machines.events import ExecutionState, Mode

NO_ACTION = "no action came in time"
NO_ROBOT = "the robot was not heard"
KEPT_STOPPED = "it was stopped in this episode before this node was started, or this node was away for too long"
WHAT_TO_DO = (
    "it moves again in a new episode only: look in /diagnostics and the log of the other nodes for what is late or "
    "missing, then call start_episode"
)
RESUMES = "it moves again as soon as actions come, as resume_after_error says"
QUIET_S = 1.0
_RUNGS = (Mode.HOLD, Mode.DECELERATE)


class Level(Enum):
    """How loud a sentence is."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True)
class Said:
    """A sentence and how loud it is."""

    level: Level
    sentence: str


def cause(state: ExecutionState) -> str:
    """Return why an executor that holds or has stopped does so."""
    if state.mode is Mode.ERROR and not state.executed:
        return KEPT_STOPPED
    return NO_ACTION if state.starved else NO_ROBOT


def were_away(names: Sequence[str]) -> str:
    """Return that these nodes were away."""
    return f"{' and '.join(names)} {'was' if len(names) == 1 else 'were'} away"


def stop_of(states: Sequence[ExecutionState]) -> str:
    """Return why and after how long the executor stopped the robot by itself, one sentence; empty when it did not.

    Args:
        states: of one episode, in order.
    """
    played: ExecutionState | None = None
    for state in states:
        if state.mode is Mode.PLAYING:
            played = state
        if state.mode is Mode.ERROR:
            for_s = state.held_s - (played.held_s if played is not None else 0.0)
            return f"the executor stopped the robot: {cause(state)} for {for_s:.1f} s, {_last(state)}"
    return ""


class Speaker:
    """Follows the states of one executor and says what changes, with cause and age.

    A hold is said at most once in `QUIET_S`, for a stream that stutters holds many times a second; a hold that was not
    said is not said to be over. What goes beyond a hold is always said.
    """

    def __init__(self) -> None:
        self._mode = Mode.IDLE
        self._hold_said_s = -math.inf
        self._told = False  # of the present hold
        self._held_s = 0.0  # in this episode, when the last action had begun
        self._refused: dict[str, int] = {}  # by reason, likewise

    def on_state(
        self, state: ExecutionState, refused: Mapping[str, int], why: str, now: float, waited_for: Sequence[str] = ()
    ) -> Said | None:
        """Return what is to be said of `state`, or None.

        Args:
            state: the newest one.
            refused: counters of the actions that were refused, by reason.
            why: in more detail why the robot is held; empty: not known.
            now: seconds.
            waited_for: nodes that were away in the present hold, or in the one that is over.
        """
        before, self._mode = self._mode, state.mode
        said = None
        if before is not state.mode:
            said = self._change(before, state, refused, why or cause(state), now, waited_for)
        if state.mode not in (*_RUNGS, Mode.ERROR):
            self._held_s, self._refused = state.held_s, dict(refused)
        return said

    def _change(
        self,
        before: Mode,
        state: ExecutionState,
        refused: Mapping[str, int],
        why: str,
        now: float,
        waited_for: Sequence[str],
    ) -> Said | None:
        for_s = max(0.0, state.held_s - self._held_s)
        if state.mode is Mode.HOLD:
            self._told = now >= self._hold_said_s + QUIET_S
            if not self._told:
                return None
            self._hold_said_s = now
            return Said(Level.WARN, f"the robot is held: {why}; {_last(state)}")
        if state.mode is Mode.DECELERATE:
            self._told = True
            return Said(Level.WARN, f"the robot is brought to rest: held for {for_s:.1f} s, {why}; {_last(state)}")
        if state.mode is Mode.ERROR:
            what = RESUMES if state.resumes else WHAT_TO_DO
            said = f"the robot was stopped after {for_s:.1f} s: {why}; {_last(state)}{self._came(refused)}; {what}"
            return Said(Level.ERROR, said)
        if state.mode is not Mode.PLAYING or before not in (*_RUNGS, Mode.ERROR):
            return None
        if waited_for:
            return Said(Level.INFO, f"recovered: {were_away(waited_for)}, the robot moves again after {for_s:.2f} s")
        if self._told or before is Mode.ERROR:
            return Said(Level.INFO, f"the robot moves again after {for_s:.2f} s: {_last(state)}")
        return None

    def _came(self, refused: Mapping[str, int]) -> str:
        """Return which actions came meanwhile and were refused; empty when none did."""
        new = {reason: count - self._refused.get(reason, 0) for reason, count in refused.items()}
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(new.items()) if count > 0)
        return f"; refused meanwhile: {told}" if told else ""


def _last(state: ExecutionState) -> str:
    if state.index < 0:
        return "no action was played"
    return f"action {state.index} of context {state.context} is the newest"
