"""The machine of one goal: an instruction that is carried out until the robot's check, a limit or somebody ends it.

- RUNNING --success, time limit, cancel, robot error, executor not heard, episode ended--> STOPPING
- STOPPING --the executor is idle, or STOP_WITHIN_S--> over;   RUNNING --another episode--> over

Nothing of it moves the robot: it ends the episode, and the executor stops under control.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from streaming_vla.machines.events import Episode, ExecutionState, Mode
from streaming_vla.machines.stops import cause

FEEDBACK_PERIOD_S = 0.1  # and with every change of mode
STOP_WITHIN_S = 2.0
NOT_HEARD_S = 15.0  # the executor says its state at least every 0.5 s; one that was killed is back before
LONGEST_LIMIT_S = 7 * 86_400.0


class Ended(IntEnum):
    """Why a goal ended; the numbers are those of ExecuteInstruction.action."""

    SUCCESS = 1
    TIME_LIMIT = 2
    CANCELLED = 3
    STOPPED = 4
    ROBOT_ERROR = 5
    NOT_HEARD = 6
    REFUSED = 7


@dataclass(frozen=True)
class Progress:
    """What has become of a goal so far; the fields are those of the action's feedback."""

    episode: int
    phase: Mode
    executed: int
    held: bool
    held_s: float
    observation_age_s: float


@dataclass(frozen=True)
class EndEpisode:
    """The episode of the goal must end now."""


@dataclass(frozen=True)
class Outcome:
    """How a goal ended; the fields are those of the action's result."""

    ended: Ended
    reason: str
    episode: int = 0
    executed: int = 0
    duration_s: float = 0.0


GoalEffect = Progress | EndEpisode | Outcome


def limit_problem(time_limit_s: float) -> str:
    """Return why a time limit is none, empty when it is one."""
    if 0.0 <= time_limit_s <= LONGEST_LIMIT_S:
        return ""
    return f"time_limit_s is {time_limit_s:g}, expected 0 for none or at most {LONGEST_LIMIT_S:g} seconds"


class Goal:
    """One goal, from its episode's beginning until its outcome, after which it is silent.

    Args:
        episode: that carries it out.
        time_limit_s: seconds that it may take; 0: as long as it needs.
        now: seconds.
    """

    def __init__(self, episode: int, time_limit_s: float, now: float) -> None:
        self._episode, self._begin_s = episode, now
        self._limit_s = now + time_limit_s if time_limit_s else math.inf
        self._heard_s = now
        self._state: ExecutionState | None = None
        self._told_s = -math.inf
        self._told: Mode | None = None
        self._asked_s: dict[int, float] = {}  # by sequence of the observation
        self._ending: tuple[Ended, str] | None = None
        self._stops_s = math.inf
        self.over = False

    def on_request(self, sequence: int, now: float) -> None:
        """Learn that an observation is asked for."""
        self._asked_s[sequence] = now

    def on_state(self, state: ExecutionState, now: float) -> list[GoalEffect]:
        """Learn what the executor does."""
        if state.episode != self._episode or self.over:
            return []
        self._state, self._heard_s = state, now
        self._asked_s = {number: at for number, at in self._asked_s.items() if number >= state.context}
        if self._ending is not None:
            return self._finish(now) if state.mode is Mode.IDLE else []
        if state.mode is Mode.ERROR:
            return self._end(Ended.ROBOT_ERROR, f"the executor stopped the robot: {cause(state)}", now)
        if state.mode is self._told and now < self._told_s + FEEDBACK_PERIOD_S:
            return []
        self._told, self._told_s = state.mode, now
        age_s = now - self._asked_s.get(state.context, math.nan)
        return [Progress(self._episode, state.mode, state.executed, state.held, state.held_s, age_s)]

    def on_success(self, now: float) -> list[GoalEffect]:
        """Hear the robot's own check say that it is done."""
        return self._end(Ended.SUCCESS, "the robot's own check says that it is done", now)

    def on_episode(self, episode: Episode, now: float) -> list[GoalEffect]:
        """Hear of the newest episode: the goal's own may have been ended by somebody, or replaced."""
        if self.over or (episode.number == self._episode and episode.active):
            return []
        if episode.number != self._episode:
            self._ending = self._ending or (Ended.STOPPED, f"episode {episode.number} was begun in its place")
            return self._finish(now)
        if self._ending is None:
            self._stopping(Ended.STOPPED, "somebody ended its episode", now)
        return []

    def cancel(self, now: float) -> list[GoalEffect]:
        """End it as the client wants."""
        return self._end(Ended.CANCELLED, "it was cancelled", now)

    def abandon(self, reason: str, now: float) -> list[GoalEffect]:
        """End it at once: nobody is left to wait for the robot."""
        if self.over:
            return []
        self._ending = self._ending or (Ended.STOPPED, reason)
        return self._finish(now)

    def poll(self, now: float) -> list[GoalEffect]:
        """Do what is due."""
        if self._ending is not None:
            if self.over or now < self._stops_s:
                return []
            return self._finish(now, f"; the executor has not said within {STOP_WITHIN_S:g} s that the robot stands")
        if now >= self._limit_s:
            return self._end(Ended.TIME_LIMIT, f"it was not done after {self._limit_s - self._begin_s:g} s", now)
        if now >= self._heard_s + NOT_HEARD_S:
            return self._end(Ended.NOT_HEARD, f"the executor was not heard for {NOT_HEARD_S:g} s", now)
        return []

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""
        if self.over:
            return None
        return self._stops_s if self._ending is not None else min(self._limit_s, self._heard_s + NOT_HEARD_S)

    def _end(self, ended: Ended, reason: str, now: float) -> list[GoalEffect]:
        if self._ending is not None:
            return []
        self._stopping(ended, reason, now)
        return [EndEpisode()]

    def _stopping(self, ended: Ended, reason: str, now: float) -> None:
        self._ending, self._stops_s = (ended, reason), now + STOP_WITHIN_S

    def _finish(self, now: float, remark: str = "") -> list[GoalEffect]:
        assert self._ending is not None
        ended, reason = self._ending
        self.over = True
        executed = 0 if self._state is None else self._state.executed
        return [Outcome(ended, reason + remark, self._episode, executed, now - self._begin_s)]
