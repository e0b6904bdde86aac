"""The network of a recording: every message arrives when it arrived when the bag was recorded."""

from __future__ import annotations

from collections.abc import Callable

from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.engine.values import EncodedObservation
from streaming_vla.machines.events import (
    Action,
    ContextReady,
    ExecutionState,
    GeneratedAction,
    GenerateRequest,
    ObserveRequest,
)
from streaming_vla.workbench.replay.recorded_times import Interval
from streaming_vla.workbench.replay.recording import Recording
from streaming_vla.workbench.virtual.clock import Clock
from streaming_vla.workbench.virtual.network import Network


class RecordedNetwork(Network):
    """What a recording says; of what it does not tell, what a profile says.

    Args:
        recording: to go by.
        profile: latencies.
        clock: of the run.
        seed: of the profile's draws.
        receive_again: called when the live observer had answered a request, whose pictures were recent enough for it.
    """

    def __init__(
        self,
        recording: Recording,
        profile: LatencyProfile,
        clock: Clock,
        seed: int,
        receive_again: Callable[[], None],
    ) -> None:
        super().__init__(profile, clock, seed)
        self._recording, self._receive_again = recording, receive_again
        self._in_order_s: dict[str, float] = {}  # when the newest message of a channel arrives

    def send(self, message: object, receiver: str, event: Callable[[], None]) -> None:
        """See Network."""
        if isinstance(message, ObserveRequest):
            self._ask(message, event)
            return
        if isinstance(message, GenerateRequest) and self._asked_for(message):
            self._clock.after(0.0, event)  # the engine's pace says when what it asks for was there
            return
        way = self._way(message, receiver)
        in_order = isinstance(message, Action | ExecutionState)
        if way is None and not in_order:
            super().send(message, receiver, event)
            return
        left_s = 0.0 if way is None else self._recording.left_s(*way)
        if in_order:  # neither actions nor states overtake each other
            arrival_s = max(self._clock.now + left_s, self._in_order_s.get(receiver, 0.0))
            self._in_order_s[receiver] = arrival_s
            left_s = arrival_s - self._clock.now
        self._clock.after(left_s, event)

    def _asked_for(self, request: GenerateRequest) -> bool:
        """True when one of the steps that are granted was done in the recording."""
        steps = ((request.context, step) for step in range(request.step, request.until))
        return any(step in self._recording.times.flow_steps for step in steps)

    def _way(self, message: object, receiver: str) -> Interval | None:
        """Return when a message was sent and when it arrived; None: it was not recorded."""
        times = self._recording.times
        match message:
            case EncodedObservation():
                encoded, prefilled = times.observed.get(message.sequence), times.prefilled.get(message.sequence)
                return None if encoded is None or prefilled is None else (encoded[1], prefilled[0])
            case ContextReady():
                return times.taken(message.sequence)
            case GeneratedAction():
                key = (message.context, message.step)
                asked = times.generated.get(key)
                return None if asked is None else (times.flow_steps.get(key, asked)[1], asked[1])
            case Action():  # one that was waited for came when it was begun
                place = (message.context, message.index)
                known = place in times.waited_for and place in times.sent
                return (times.sent[place], times.begun[place]) if known else None
            case ExecutionState():  # one that made somebody act came when he acted
                key_of_state = (message.context, message.index, message.mode)
                return self._recording.caused[receiver].pop(key_of_state, None)
        return None

    def _ask(self, request: ObserveRequest, event: Callable[[], None]) -> None:
        """Let the observer hear of a request when it did, or had what it saw; of what it never answered it does not."""
        recording, times, sequence = self._recording, self._recording.times, request.sequence
        reception = recording.reception
        if times.unanswered(sequence) and recording.left_s(times.asked[sequence], times.asked[sequence]) == 0.0:
            return
        if sequence not in times.asked or sequence not in times.observed or reception is None:
            super().send(request, "observer", event)
            return
        asked_s, (heard_s, encoded_s) = times.asked[sequence], times.observed[sequence]

        def heard() -> None:
            late_s = 0.0 if reception.complete(sequence) else recording.left_s(heard_s, encoded_s)
            self._clock.after(late_s, event)
            self._clock.after(recording.left_s(heard_s, encoded_s), self._receive_again)

        self._clock.after(recording.left_s(asked_s, heard_s), heard)
