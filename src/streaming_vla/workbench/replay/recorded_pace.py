"""The hardware of a recording: every piece of work takes as long as it took when the bag was recorded.

As long as the replay asks for the same thing within a control period of when it was asked for, it has it when it was
there. What was asked for at another time takes as long as it took then, and what never was as long as the profile
says. So a replay with the recorded parameters meets the recorded latencies and waits one by one, and one with others
departs from the recording where its decisions do.
"""

from __future__ import annotations

from collections.abc import Callable

from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.machines.events import Action, ExecutionState, Mode
from streaming_vla.workbench.replay.recorded_reception import Reception
from streaming_vla.workbench.replay.recorded_times import RecordedEpisode, Work
from streaming_vla.workbench.virtual.hardware import Clock, Done, Hardware


class RecordedHardware(Hardware):
    """A profile's hardware until `follow` gives it an episode to go by.

    Attributes:
        reception: what the observer had received when; None without a recording.
        receive_again: called when the live observer had answered a request, whose pictures were recent enough for it.
    """

    def __init__(self, profile: LatencyProfile, clock: Clock, seed: int) -> None:
        super().__init__(profile, clock, seed)
        self._period_s = profile.control_period_s
        self._now = lambda: clock.now
        self._after = clock.after
        self.reception: Reception | None = None
        self.receive_again: Callable[[], None] = lambda: None
        self.follow(None, 0.0)

    def follow(self, times: RecordedEpisode | None, ahead_s: float) -> None:
        """Go by another episode; `ahead_s` leads from the virtual clock to the recorder's."""
        self._times = times or RecordedEpisode()
        self._ahead_s = ahead_s
        self._caused = {receiver: self._times.caused(receiver) for receiver in ("generator", "monitor")}
        self.reception = Reception(self._times, ahead_s) if times is not None else None

    def ask(self, sequence: int, event: Callable[[], None]) -> None:
        """See Hardware: when the observer heard of it, or had what it saw; what it never answered it does not hear."""
        times, reception = self._times, self.reception
        if times.unanswered(sequence) and self._left_s(times.asked[sequence], times.asked[sequence]) == 0.0:
            return
        if sequence not in times.asked or sequence not in times.observed or reception is None:
            super().ask(sequence, event)
            return
        asked_s, (heard_s, encoded_s) = times.asked[sequence], times.observed[sequence]

        def heard() -> None:
            late_s = 0.0 if reception.complete(sequence) else self._left_s(heard_s, encoded_s)
            self._after(late_s, event)
            self._after(self._left_s(heard_s, encoded_s), self.receive_again)

        self._after(self._left_s(asked_s, heard_s), heard)

    def observation(self, sequence: int, done: Done) -> None:
        """See Hardware."""
        times = self._times
        if sequence not in times.observed or sequence not in times.prefilled:
            super().observation(sequence, done)
            return
        begin_s, end_s = times.prefilled[sequence]
        left_s = self._left_s(times.observed[sequence][1], end_s)
        work_s = min(left_s, end_s - begin_s)
        self._after(left_s, lambda: done(self._now() - work_s, self._now()))

    def context(self, sequence: int, to_generator: Callable[[], None], to_monitor: Callable[[], None]) -> None:
        """See Hardware."""
        taken, heard_s = self._times.taken(sequence), self._times.heard.get(sequence)
        if taken is None or heard_s is None:
            super().context(sequence, to_generator, to_monitor)
            return
        self._after(self._left_s(*taken), to_generator)
        self._after(self._left_s(taken[0], heard_s), to_monitor)

    def flow_step_s(self, sequence: int) -> float | None:
        """See Hardware."""
        recorded_s = self._times.flow_step_s.get(sequence)
        return super().flow_step_s(sequence) if recorded_s is None else recorded_s

    def flow_step(self, context: int, index: int, done: Done) -> None:
        """See Hardware."""
        asked = self._times.generated.get((context, index))
        if asked is None:
            super().flow_step(context, index, done)
            return
        begin_s, end_s = self._times.flow_steps.get((context, index), asked)
        self.flow_latency.add(max(0.0, end_s - begin_s))
        left_s = self._left_s(asked[0], end_s)
        work_s = min(left_s, end_s - begin_s)
        self._after(left_s, lambda: done(self._now() - work_s, self._now()))

    def flow_reply(self, context: int, index: int, event: Callable[[], None]) -> None:
        """See Hardware."""
        asked = self._times.generated.get((context, index))
        if asked is None:
            super().flow_reply(context, index, event)
            return
        _, end_s = self._times.flow_steps.get((context, index), asked)
        self._after(self._left_s(end_s, asked[1]), event)

    def action(self, action: Action, event: Callable[[], None]) -> None:
        """See Hardware: an action that was waited for came when it was begun."""
        key = (action.context, action.index)
        waited = key in self._times.waited_for
        generated = self._times.generated.get(self._times.step_of(*key)) if waited else None
        left_s = 0.0 if generated is None else self._left_s(generated[1], self._times.begun[key])
        self._in_order("action", left_s, event)

    def state(self, receiver: str, state: ExecutionState, event: Callable[[], None]) -> None:
        """See Hardware: a state that made somebody act came when he acted; states do not overtake each other."""
        key: tuple[int, int, Mode] = (state.context, state.index, state.mode)
        caused: Work | None = self._caused[receiver].pop(key, None)
        self._in_order(receiver, self._left_s(*caused) if caused is not None else 0.0, event)

    def _in_order(self, channel: str, left_s: float, event: Callable[[], None]) -> None:
        """Let `event` happen in `left_s` seconds, at once for 0, but not before another one of its channel."""
        arrival_s = max(self._now() + left_s, self._arrivals_s.get(channel, 0.0))
        self._arrivals_s[channel] = arrival_s
        if arrival_s > self._now():
            self._after(arrival_s - self._now(), event)
        else:
            event()

    def _left_s(self, begin_s: float, end_s: float) -> float:
        """Return in how many seconds what took from `begin_s` to `end_s` is done, when it is begun now."""
        now_s = self._now() + self._ahead_s
        same = abs(now_s - begin_s) <= self._period_s
        return max(0.0, end_s - (now_s if same else begin_s))
