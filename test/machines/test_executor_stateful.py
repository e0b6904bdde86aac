"""The executor under anything that a network, a robot and a broken sender may do to it.

Good actions carry values below BAD; whatever must never be played carries BAD. Every command is checked.
"""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from runtime_cases import LAYOUT, PERIOD_S, PLAYS, action, commands, only

from streaming_vla.machines.events import Action, CommandKind, Episode, ExecutionState, Mode
from streaming_vla.machines.executor import Executor, ExecutorEffect
from streaming_vla.machines.executor_options import ExecutorOptions

BAD = 0.987654
JUMP = 0.6
SPEED = 0.5 / PERIOD_S
OPTIONS = ExecutorOptions(
    control_period_s=PERIOD_S,
    **PLAYS | {"velocity_limit": (SPEED, SPEED, 1000.0), "jump_limit": (JUMP, JUMP, JUMP)},
    hold_s=0.2,
    decelerate_s=0.2,
    max_action_age_s=0.3,
    robot_timeout_s=0.4,
)
LATE_S = st.floats(0.0, 0.2)
EPSILON = 1e-9


class ExecutorMachine(RuleBasedStateMachine):
    """A sender of good actions, a sender of bad ones, a clock and a robot."""

    @initialize(running=st.booleans())
    def begin(self, running: bool) -> None:
        self.executor = Executor(LAYOUT, OPTIONS)
        self.now = 100.0
        self.number = 0
        self.active = False
        self.context, self.index = 0, 0  # next good action
        self.good: dict[tuple[int, int], Action] = {}
        self.played: list[tuple[int, int]] = []
        self.last = LAYOUT.start()
        self.began_s = self.now
        self.before = self.executor.state(self.now)
        self.heard_s = -1.0
        self.period_s = PERIOD_S
        if running:
            self.next_episode()
            self.all_is_well(3)

    def take(self, effects: list[ExecutorEffect]) -> None:
        """Check everything that the executor says."""
        for position, effect in enumerate(effects):
            if isinstance(effect, ExecutionState):
                continue
            assert np.isfinite(effect.values).all()
            assert (np.abs(effect.values) <= 1.0).all()
            assert not np.isclose(effect.values, BAD).any()
            assert (np.abs(effect.values[:2]) <= SPEED * PERIOD_S + EPSILON).all()
            assert 0.0 <= effect.progress <= 1.0
            if effect.kind is not CommandKind.STOP:
                assert (np.abs(effect.values - self.last) <= JUMP + EPSILON).all()
            if effect.kind is CommandKind.PLAY:
                self.check_play(effect.values, self.last, effects[position + 1])
            self.last = effect.values

    def check_play(self, values: np.ndarray, previous: np.ndarray, state: ExecutorEffect) -> None:
        """Check that what is played is what was asked for, as near as `previous` permits."""
        assert isinstance(state, ExecutionState)
        assert self.active
        assert self.now < self.heard_s + OPTIONS.robot_timeout_s + PERIOD_S, "moved without proof of life"
        key = (state.context, state.index)
        assert key in self.good
        nearest = np.clip(self.good[key].values, previous - JUMP, previous + JUMP)
        reach = SPEED * self.period_s
        assert np.isclose(values[2], nearest[2], atol=EPSILON)
        assert np.allclose(values[:2], np.clip(nearest[:2], -reach, reach), atol=EPSILON)
        if self.played:
            context, index = self.played[-1]
            assert key == (context, index + 1) or (key[0] > context and key[1] == 0)
        else:
            assert key[1] == 0
        self.played.append(key)
        self.began_s = self.now
        contexts = [context for context, _ in self.played]
        assert state.hand_overs == len(set(contexts)) - 1

    def send_wrong(self, wrong: Action) -> None:
        """Send what must be refused, whatever the executor does at the moment."""
        self.take(self.executor.poll(self.now))
        before = self.executor.state(self.now)
        assert self.executor.on_action(wrong, self.now) == []
        after = self.executor.state(self.now)
        assert after.rejected == before.rejected + 1
        assert (after.queue_depth, after.executed, after.mode) == (before.queue_depth, before.executed, before.mode)

    @rule(dx=st.floats(-0.9, 0.9), grip=st.floats(-0.9, 0.9), newer=st.booleans())
    def good_action(self, dx: float, grip: float, newer: bool) -> None:
        state = self.executor.state(self.now)
        if newer or state.rejected > self.before.rejected:
            self.context, self.index = self.context + 1, 0  # as a generator does after a loss
        good = action(self.context, self.index, (dx, -dx, grip), self.number)
        self.good[(self.context, self.index)] = good
        self.before = state
        self.take(self.executor.on_action(good, self.now))
        if self.executor.state(self.now).rejected > state.rejected:
            self.context, self.index = self.context + 1, 0
        else:
            self.index += 1

    @rule(count=st.integers(2, 12))
    def burst(self, count: int) -> None:
        for number in range(count):
            self.good_action(0.9 * (-1) ** number, 0.2, False)

    @rule(kind=st.sampled_from(["duplicate", "late", "gap", "gap_in_newer", "old_episode", "next_episode"]))
    def action_out_of_order(self, kind: str) -> None:
        context, index, episode = {
            "duplicate": (self.context, self.index - 1, self.number),
            "late": (self.context - 1, 0, self.number),
            "gap": (self.context, self.index + 1 + (self.index == 0), self.number),
            "gap_in_newer": (self.context + 3, 1, self.number),
            "old_episode": (self.context, self.index, self.number - 1),
            "next_episode": (self.context, self.index, self.number + 1),
        }[kind]
        if kind == "late" and self.index == 0:
            return  # no action of the newest context was sent: the one before may still be the newest
        self.send_wrong(action(context, index, (BAD, BAD, BAD), episode))

    @rule(values=st.sampled_from([(BAD, np.nan, BAD), (np.inf, BAD, BAD), (BAD,), (BAD,) * 4, ()]))
    def action_that_is_none(self, values: tuple[float, ...]) -> None:
        self.send_wrong(action(self.context, self.index, values, self.number))

    @rule()
    def robot_speaks(self) -> None:
        self.heard_s = self.now
        self.take(self.executor.on_robot_state(self.now))

    @rule(periods=st.integers(1, 12))
    def time_passes(self, periods: int) -> None:
        end = self.now + periods * PERIOD_S
        while (due := self.executor.deadline()) is not None and due < end:
            assert due > self.now or self.executor.poll(self.now) != []
            self.now = max(self.now, due)
            self.take(self.executor.poll(self.now))
        self.now = end
        self.take(self.executor.poll(end))

    @rule(periods=st.integers(1, 8))
    def all_is_well(self, periods: int) -> None:
        for number in range(periods):
            self.robot_speaks()
            self.good_action(0.9 * (-1) ** number, 0.2, False)
            self.time_passes(1)

    @rule(late_s=LATE_S)
    def process_is_late(self, late_s: float) -> None:
        self.now += late_s
        self.take(self.executor.poll(self.now))

    @rule()
    def next_episode(self) -> None:
        self.take(self.executor.on_episode(Episode(self.number + 1, active=True), self.now))
        self.number += 1
        self.active = True
        self.context, self.index = 0, 0
        self.good.clear()
        self.played.clear()
        self.last = LAYOUT.start()
        self.before = state = self.executor.state(self.now)
        assert (state.episode, state.mode, state.queue_depth, state.executed) == (self.number, Mode.WAITING, 0, 0)
        assert (state.held_s, state.starved_s, state.rejected, state.context) == (0.0, 0.0, 0, -1)

    @rule()
    def episode_is_over(self) -> None:
        self.take(self.executor.on_episode(Episode(self.number, active=False), self.now))
        self.active = False

    @rule()
    def stopped(self) -> None:
        moved = self.executor.state(self.now).mode in (Mode.PLAYING, Mode.HOLD, Mode.DECELERATE)
        effects = self.executor.stop(self.now)
        self.take(effects)
        assert [command.kind for command in commands(effects)] == [CommandKind.STOP] * moved
        assert only(effects, ExecutionState)[-1].mode is Mode.IDLE
        self.active = False

    @rule(period_s=st.sampled_from([PERIOD_S, PERIOD_S / 2]))
    def live_period(self, period_s: float) -> None:
        self.period_s = period_s
        self.executor.update(OPTIONS.changed(control_period_s=period_s))

    @invariant()
    def nothing_is_overdue(self) -> None:
        if not hasattr(self, "executor"):
            return
        self.take(self.executor.poll(self.now))
        due = self.executor.deadline()
        assert due is None or due > self.now
        if self.executor.state(self.now).mode is Mode.PLAYING:
            assert self.now < self.began_s + PERIOD_S, "an action outlives its period"

    @invariant()
    def times_add_up(self) -> None:
        if not hasattr(self, "executor"):
            return
        state = self.executor.state(self.now)
        assert 0.0 <= state.starved_s <= state.held_s + EPSILON
        assert state.executed == len(self.played) or not self.active
        assert state.held == (state.mode in (Mode.HOLD, Mode.DECELERATE, Mode.ERROR))


ExecutorMachine.TestCase.settings = settings(stateful_step_count=50)
TestExecutorMachine = ExecutorMachine.TestCase
