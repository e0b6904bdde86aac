"""The executor's machine: plays actions at the control rate and holds when starved.

- IDLE --episode--> WAITING --robot alive, start_actions queued--> PLAYING <--action-- HOLD, DECELERATE
- PLAYING --nothing queued, or robot silent--> HOLD --hold_s--> DECELERATE --decelerate_s--> ERROR
- HOLD and DECELERATE go no further while a node is known to be away, for its own limit; the rungs leave out a pause in
  which this process did not run
- ERROR stays until a new episode, or with resume_after_error until an action comes
- any --episode over, stop--> IDLE;   any --new episode--> WAITING
"""

from __future__ import annotations

import math

import numpy as np

from streaming_vla.machines.action_queue import ActionQueue
from streaming_vla.machines.away import Away
from streaming_vla.machines.commander import Commander
from streaming_vla.machines.counters import Counters
from streaming_vla.machines.episodes import CurrentEpisode
from streaming_vla.machines.events import Action, Command, Episode, ExecutionState, Mode, NodesAway
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.machines.stopwatch import Stopwatch
from streaming_vla.policies.layout import ActionLayout, Vector

ExecutorEffect = Command | ExecutionState

RUNGS = (Mode.HOLD, Mode.DECELERATE)
FROZEN_S = 0.25  # a tick that is so late is no busy machine: this process was stopped


class Executor:
    """Waits for nobody: whatever does not come in time is held over, whatever does not fit is refused and counted.

    Raises:
        ValueError: the limits do not fit the layout.
    """

    def __init__(self, layout: ActionLayout, options: ExecutorOptions) -> None:
        self._limits = options.limits
        self._limits.check(layout)
        self.counters = Counters()
        self._layout = layout
        self._options = options
        self._episode = CurrentEpisode()
        self._robot_heard_s = -math.inf
        self._measured: Vector | None = None
        self._mode = Mode.IDLE
        self._away = Away()
        self._forget()

    def _forget(self) -> None:
        self._queue = ActionQueue()
        self._commander = Commander(self._layout, self.counters)
        self._playing = (-1, -1)  # context and index
        self._ends_s = 0.0  # of the action being played
        self._held_since_s = self._rung_since_s = 0.0
        self._respawn_hold_s = 0.0  # for `waited_for`
        self.kept_stopped = False  # by what happened before this process, or without it
        self.waited_for: tuple[str, ...] = ()  # nodes that were away in the newest hold
        self._repeat_from_s = 0.0  # from here on the command of the rung is sent again every period
        self._repeat = 0  # of these periods, the one at whose end it is
        self._held, self._starved = Stopwatch(), Stopwatch()
        self._executed = self._hand_overs = self._rejected = 0

    def update(self, options: ExecutorOptions) -> None:
        """Take new options at once; an action being played keeps its end.

        Raises:
            ValueError: the limits do not fit the layout.
        """
        limits = options.limits
        limits.check(self._layout)
        if options.control_period_s != self._options.control_period_s:  # of what is repeated the next period is new
            self._repeat_from_s += max(0, self._repeat - 1) * self._options.control_period_s
            self._repeat = min(1, self._repeat)
        self._options, self._limits = options, limits

    def on_episode(self, episode: Episode, now: float) -> list[ExecutorEffect]:
        """Begin or end an episode; a robot in motion is stopped."""
        effects = self.poll(now)
        before = self._episode.number
        if not self._episode.renew(episode, self.counters):
            return effects + (self._stay_stopped(now) if episode.stopped and self._episode.runs(episode.number) else [])
        effects += self._halt()
        self._rest(now)
        if self._episode.number != before:
            self._forget()
        self._mode = Mode.WAITING if self._episode.active else Mode.IDLE
        return effects + ((self._stay_stopped(now) if episode.stopped else []) or [self.state(now)])

    def on_action(self, action: Action, now: float) -> list[ExecutorEffect]:
        """Queue the action that follows, or refuse it; while starved it is played at once."""
        effects = self.poll(now)
        reason = self._refuse(action, now)
        if reason is not None:
            self.reject(reason)
            return effects
        self._queue.append(action, now)
        if self._mode is Mode.WAITING:
            return effects + (self._start(now) or [self.state(now)])
        return effects + self._begin(now) if self._waits_for_actions else effects

    def on_robot_state(self, now: float, measured: Vector | None = None) -> list[ExecutorEffect]:
        """Hear that the robot is alive, and where it is.

        Args:
            now: seconds.
            measured: where the robot is, action units, [A]; absolute dimensions of the first command are limited from
                there. None: not known, they are limited from the layout's `initial`.
        """
        effects = self.poll(now)
        self._robot_heard_s = now
        self._measured = measured
        if self._mode is Mode.WAITING:
            return effects + self._start(now)
        if self._waits_for_actions and not self._starved.running:
            self._starved.start(now)  # the robot is back: from here on it is actions that are missing
            effects.append(self.state(now))
        return effects

    def on_nodes_away(self, told: NodesAway, now: float) -> list[ExecutorEffect]:
        """Hear which nodes are not there: a hold waits for them longer than for a stream that falters."""
        effects = self.poll(now)
        self._away.hear(told)
        if self._mode in RUNGS:
            self._wait_for_away()
        return effects

    @property
    def away(self) -> Away:
        """The nodes that are not there."""
        return self._away

    def on_told(self, values: Vector) -> None:
        """Hear what became of a command's absolute values on their way to the robot, action units, [A].

        A command type with joint targets bounds them by the measured pose, and blends a deceleration into it. What
        follows is limited from there, and a hold keeps what was told.
        """
        self._commander.told(values)

    def stop(self, now: float) -> list[ExecutorEffect]:
        """Stop a robot in motion; this machine moves it again in a new episode only."""
        effects = self._halt()
        self._rest(now)
        self._mode = Mode.IDLE
        return [*effects, self.state(now)]

    def reject(self, *reasons: str) -> None:
        """Count actions that are not played, one per reason; those too that a node keeps from `on_action`."""
        for reason in reasons:
            self.counters.count(f"action_{reason}")
        self._rejected += len(reasons)

    def poll(self, now: float) -> list[ExecutorEffect]:
        """Do what is due: the next action, a hold, the next rung of the ladder."""
        effects: list[ExecutorEffect] = []
        while (due_s := self.deadline()) is not None and now >= due_s:
            effects += self._advance(due_s, now)
        return effects

    def deadline(self) -> float | None:
        """Return when `poll` must be called next, or None."""
        if self._mode is Mode.PLAYING:
            return min(self._ends_s, self._robot_silent_s())
        if self._mode in RUNGS:
            repeat_s = self._repeat_from_s + self._repeat * self._options.control_period_s
            return min(repeat_s, self._rung_ends_s())
        return self._queue.expires_s(self._options.max_action_age_s) if self._mode is Mode.WAITING else None

    def robot_silent(self, now: float) -> bool:
        """Whether the robot was not heard for robot_timeout_s, or never: nobody knows where it is."""
        return now >= self._robot_silent_s()

    def state(self, now: float) -> ExecutionState:
        """Return what the executor does at `now`."""
        context, index = self._playing
        return ExecutionState(
            episode=self._episode.number,
            mode=self._mode,
            context=context,
            index=index,
            queue_depth=len(self._queue),
            executed=self._executed,
            cumulative_action=self._commander.cumulative.copy(),
            held=self._held.running,
            starved=self._starved.running,
            held_s=self._held.total_s(now),
            starved_s=self._starved.total_s(now),
            hand_overs=self._hand_overs,
            rejected=self._rejected,
            instruction=self._episode.instruction,
            dry_run=self._options.dry_run,
            resumes=self._options.resume_after_error,
            respawn_hold_s=self._options.respawn_hold_s,
        )

    def _advance(self, due_s: float, now: float) -> list[ExecutorEffect]:
        if self._mode is Mode.WAITING:
            self.reject(*self._queue.drop_old(now, self._options.max_action_age_s))
            return [self.state(now)]
        if self._mode in RUNGS:
            return self._climb(due_s, now)
        late = now - due_s >= self._options.control_period_s
        start_s = now if late else due_s  # after a pause of the process no burst of commands
        if self.robot_silent(start_s):
            self.counters.count("robot_silent")
            self.reject(*self._queue.flush())
            return self._hold(due_s, now)
        self.reject(*self._queue.drop_old(start_s, self._options.max_action_age_s))
        if not self._queue:
            self._starved.start(due_s)
            return self._hold(due_s, now)
        if late:
            self.counters.count("late_tick")
        return self._begin(start_s)

    def _start(self, now: float) -> list[ExecutorEffect]:
        """Begin the first action of the episode when the robot is alive and enough is queued."""
        ready = not self.robot_silent(now) and len(self._queue) >= self._options.start_actions
        return self._begin(now) if ready else []

    def _begin(self, start_s: float) -> list[ExecutorEffect]:
        action = self._queue.pop()
        if not self._executed and self._measured is not None:
            self._commander.begin(self._measured)
        self._held.stop(start_s)
        self._starved.stop(start_s)
        self._mode = Mode.PLAYING
        self._ends_s = start_s + self._options.control_period_s
        self._hand_overs += int(0 <= self._playing[0] < action.context)
        self._playing = (action.context, action.index)
        self._executed += 1
        command = self._commander.play(action.values, self._limits, self._options.control_period_s)
        return [command, self.state(start_s)]

    def _hold(self, since_s: float, now: float) -> list[ExecutorEffect]:
        self._held.start(since_s)
        self._held_since_s = now if _frozen(since_s, now) else since_s
        self._respawn_hold_s, self.waited_for = 0.0, ()
        self._wait_for_away()
        return self._climb_to(Mode.HOLD, self._held_since_s, now)

    def _climb(self, due_s: float, now: float) -> list[ExecutorEffect]:
        """Repeat the command of this rung, or go to the next one."""
        if _frozen(due_s, now):
            self._held_since_s += now - due_s
            self._rung_since_s += now - due_s
            due_s = now
        if due_s < self._rung_ends_s():
            return self._say(due_s, now)
        if self._mode is Mode.HOLD:
            return self._climb_to(Mode.DECELERATE, due_s, now)
        self.counters.count("error")
        self._mode = Mode.ERROR
        return [self._commander.stop(), self.state(now)]

    def _climb_to(self, rung: Mode, since_s: float, now: float) -> list[ExecutorEffect]:
        self.counters.count(rung.name.lower())
        self._mode = rung
        self._rung_since_s = self._repeat_from_s = since_s
        self._repeat = 0
        return self._say(since_s, now)

    def _say(self, due_s: float, now: float) -> list[ExecutorEffect]:
        """Send the command of this rung; what a pause of the process left out is not made up for."""
        limits, period_s = self._limits, self._options.control_period_s
        self._repeat = max(self._repeat, math.floor((now - self._repeat_from_s) / period_s)) + 1
        if self._mode is Mode.HOLD:
            return [self._commander.hold(limits, period_s), self.state(now)]
        rung_s = max(self._options.decelerate_s, period_s)  # never divides by zero
        progress = min(1.0, (due_s - self._rung_since_s) / rung_s)
        return [self._commander.decelerate(limits, period_s, progress), self.state(now)]

    def _wait_for_away(self) -> None:
        """Let this hold last for the nodes that are away; once they are back their first actions still take a while."""
        self._respawn_hold_s = max(self._respawn_hold_s, self._away.hold_s(self._options))
        self.waited_for = tuple(sorted({*self.waited_for, *self._away.names}))

    def _rung_ends_s(self) -> float:
        rung_s = self._options.hold_s if self._mode is Mode.HOLD else self._options.decelerate_s
        return max(self._rung_since_s + rung_s, self._held_since_s + self._respawn_hold_s)

    @property
    def _waits_for_actions(self) -> bool:
        """Whether the robot stands still, and moves again as soon as an action comes."""
        return self._mode in RUNGS or (self._mode is Mode.ERROR and self._options.resume_after_error)

    def _robot_silent_s(self) -> float:
        return self._robot_heard_s + self._options.robot_timeout_s

    def _refuse(self, action: Action, now: float) -> str | None:
        """Return why `action` is not taken, or None."""
        if not self._episode.runs(action.episode):
            return "other_episode"
        if self._mode in (Mode.IDLE, Mode.ERROR) and not self._waits_for_actions:
            return "stopped"
        if np.shape(action.values) != (self._layout.size,):
            return "wrong_shape"
        if not np.isfinite(action.values).all():
            return "not_finite"
        if self._waits_for_actions and self.robot_silent(now):
            return "robot_silent"
        return self._queue.refuse(action)

    def _stay_stopped(self, now: float) -> list[ExecutorEffect]:
        """Move no more in this episode: an executor before this one had stopped the robot, or was away for too long."""
        if self._options.resume_after_error or self._mode is Mode.ERROR:
            return []
        effects = self._halt()
        self._rest(now)
        self.counters.count("episode_stopped")
        self.kept_stopped = True
        self._mode = Mode.ERROR
        return [*effects, self.state(now)]

    def _halt(self) -> list[ExecutorEffect]:
        """Return the stop of a robot that is being commanded; one at rest may belong to somebody else by now."""
        # nothing follows it, so no limit may keep a rest of motion in it
        return [self._commander.stop()] if self._mode in (Mode.PLAYING, *RUNGS) else []

    def _rest(self, now: float) -> None:
        """Let nothing go on; what has been counted stays."""
        for _ in self._queue.flush():
            self.counters.count("action_unplayed")
        self._held.stop(now)
        self._starved.stop(now)


def _frozen(due_s: float, now: float) -> bool:
    return now - due_s >= FROZEN_S
