"""The monitor under any order of states, contexts and time: one request at a time, and never a silence."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from runtime_cases import ACTS, context, state

from streaming_vla.machines.events import Episode, Mode, ObserveRequest, Reason
from streaming_vla.machines.monitor import Monitor, MonitorEffect
from streaming_vla.machines.monitor_options import MonitorOptions

TIMEOUT_S, SILENCE_S = 0.7, 1.5
TAKES_ACTIONS = [Mode.WAITING, Mode.PLAYING, Mode.HOLD, Mode.DECELERATE]


class MonitorMachine(RuleBasedStateMachine):
    """An engine that answers or not, and an executor that says anything."""

    @initialize(mode=st.sampled_from(["off", "always"]), early=st.integers(0, 3))
    def begin(self, mode: str, early: int) -> None:
        self.mode = mode
        options = MonitorOptions(**ACTS, early_actions=early, max_silence_s=SILENCE_S, request_timeout_s=TIMEOUT_S)
        self.monitor = Monitor(options.changed(mode=mode, warm_up_contexts=0))
        self.now = 50.0
        self.number = 0
        self.active = False
        self.outstanding: ObserveRequest | None = None
        self.start()

    @rule()
    def start(self) -> None:
        effects = self.monitor.start_episode(self.now, "go")
        [episode] = [effect for effect in effects if isinstance(effect, Episode)]
        assert episode.number > self.number, "a number is used once"
        assert episode.active
        self.number = episode.number
        self.active = True
        self.outstanding = None
        self.sequence = -1
        self.contexts: list[int] = []
        self.over = self.stopped = False
        self.take(effects[1:])
        assert self.outstanding is not None
        assert self.outstanding.reason is Reason.START

    @rule()
    def stop(self) -> None:
        effects = self.monitor.stop_episode(self.now)
        assert [effect for effect in effects if isinstance(effect, ObserveRequest)] == []
        assert len(effects) == int(self.active)
        self.active = False
        self.outstanding = None

    def take(self, effects: list[MonitorEffect]) -> None:
        """Check everything that the monitor asks."""
        assert len(effects) <= 1
        for request in effects:
            if isinstance(request, Episode):
                assert request.stopped and self.over, "said once, when the executor has stopped the robot for good"
                self.stopped = True
                continue
            assert isinstance(request, ObserveRequest)
            assert self.active
            assert not self.over
            assert request.episode == self.number
            assert request.sequence == self.sequence + 1
            if self.outstanding is not None:
                assert self.now >= self.asked_s + TIMEOUT_S - 1e-9, "two requests outstanding"
            assert request.reason is not Reason.EARLY or self.mode == "always"
            assert request.reason is not Reason.LAST_CHANCE  # off has none, always needs none
            self.outstanding = request
            self.sequence = request.sequence
            self.asked_s = self.now

    @precondition(lambda self: self.outstanding is not None and self.active)
    @rule()
    def engine_answers(self) -> None:
        request = self.outstanding
        assert request is not None
        self.outstanding = None
        self.contexts.append(request.sequence)
        self.take(self.monitor.on_context(context(request.sequence, episode=self.number), self.now))

    @precondition(lambda self: self.active)
    @rule(back=st.integers(0, 3), other=st.integers(-1, 1))
    def context_that_answers_nothing(self, back: int, other: int) -> None:
        newest = self.contexts[-1] if self.contexts else -1
        sequence = self.sequence if other else newest - back
        self.take(self.monitor.on_context(context(sequence, episode=self.number + other), self.now))

    @precondition(lambda self: self.active)
    @rule(mode=st.sampled_from([*TAKES_ACTIONS, Mode.ERROR]), index=st.integers(0, 6), newest=st.booleans())
    def executor_speaks(self, mode: Mode, index: int, newest: bool) -> None:
        playing = self.contexts[-1] if self.contexts and newest else -1
        self.over = self.stopped or mode is Mode.ERROR
        effects = self.monitor.on_execution_state(
            state(mode, playing, index if playing >= 0 else -1, episode=self.number), self.now
        )
        self.take(effects)
        dry = mode in (Mode.HOLD, Mode.DECELERATE) and not self.over
        if dry and playing >= 0:
            assert self.outstanding is not None, "the newest context is used up and nobody asked"

    @rule(other=st.sampled_from([-1, 1]))
    def other_episode_speaks(self, other: int) -> None:
        said = state(Mode.HOLD, episode=self.number + other)
        assert self.monitor.on_execution_state(said, self.now) == []

    @rule(dt=st.floats(0.0, 2.0))
    def time_passes(self, dt: float) -> None:
        end = self.now + dt
        while (due := self.monitor.deadline()) is not None and due <= end:
            assert due > self.now - 1e-9
            self.now = max(self.now, due)
            effects = self.monitor.poll(self.now)
            assert len(effects) == 1, "a deadline at which nothing was due"
            self.take(effects)
        self.now = end

    @invariant()
    def never_silent_for_too_long(self) -> None:
        if not hasattr(self, "monitor"):
            return
        due = self.monitor.deadline()
        if self.active and not self.over:
            assert due is not None
            assert due <= self.asked_s + max(SILENCE_S, TIMEOUT_S) + 1e-9
        else:
            assert due is None


MonitorMachine.TestCase.settings = settings(stateful_step_count=50)
TestMonitorMachine = MonitorMachine.TestCase
