"""Hand-made episodes with known answers for the tests of evaluation/."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streaming_vla.machines.events import ExecutionState, Mode, Reason
from streaming_vla.machines.stops import stop_of
from streaming_vla.workbench.report.records import (
    ContextAt,
    EpisodeRecord,
    Frame,
    ObservationAt,
    RequestAt,
    Span,
    StateAt,
)

PERIOD_S = 0.05
HORIZON = 10
OBSERVE_S = 0.006
PREFILL_S = 0.016
STEP_S = 0.003
PREPARE_S = OBSERVE_S + PREFILL_S


def _state(mode: Mode, context: int, index: int, executed: int, starved_s: float, hand_overs: int) -> ExecutionState:
    starved = mode in (Mode.HOLD, Mode.DECELERATE)
    return ExecutionState(
        1, mode, context, index, 0, executed, np.zeros(4), starved, starved, starved_s, starved_s, hand_overs, 0
    )


def stopped_episode(mode: str = "streaming") -> EpisodeRecord:
    """Return an episode that the executor ended by its ladder: 3 s without an action, and 2 s in its error."""
    record = make_episode(mode, contexts=2, success=False)
    last, at_s = record.states[-1].state, record.end_s
    starved_s = last.starved_s
    for begin_s, what in ((0.0, Mode.HOLD), (2.0, Mode.DECELERATE), (3.0, Mode.ERROR), (5.0, Mode.ERROR)):
        state = _state(what, last.context, last.index, last.executed, starved_s + begin_s, last.hand_overs)
        state = replace(state, held=True, starved=True, held_s=starved_s + begin_s)
        record.states.append(StateAt(at_s + begin_s, state))
    record.end_s = at_s + 5.0
    record.problem = stop_of([at.state for at in record.states])
    return record


def make_episode(
    mode: str = "synchronous", contexts: int = 8, success: bool = True, task: str = "door-open"
) -> EpisodeRecord:
    """Return an episode of `contexts` contexts of 10 actions of 50 ms each.

    Synchronous: 52 ms (6 observe, 16 prefill, 10 steps of 3) without an action at each hand-over.
    Streaming: the observation is made two actions before the hand-over, which costs nothing.
    """
    streaming = mode == "streaming"
    begin_s = 1000.0
    record = EpisodeRecord(mode, task, 10_000, "open the door", 1, PERIOD_S, begin_s, success=success)
    now, starved_s, executed = begin_s, 0.0, 0
    observe_at = begin_s
    record.states.append(StateAt(begin_s, _state(Mode.WAITING, -1, -1, 0, 0.0, 0)))
    for context in range(contexts):
        reason = Reason.START if context == 0 else Reason.EARLY if streaming else Reason.QUEUE_EMPTY
        record.requests.append(RequestAt(observe_at, context, reason))
        record.observations.append(ObservationAt(observe_at - 0.02, context, reason, 6400, 0.01))
        record.spans.append(Span("observer", "observe", observe_at, observe_at + OBSERVE_S, context))
        ready = observe_at + PREPARE_S
        record.spans.append(Span("inference", "prefill", observe_at + OBSERVE_S, ready, context))
        record.contexts.append(ContextAt(ready, context, 58, PREFILL_S, 0.0))
        first = now if context and streaming else ready + (STEP_S if streaming else HORIZON * STEP_S)
        if context and first > now:
            starved_s += first - now
        for index in range(HORIZON):
            start = first + index * PERIOD_S
            step_end = ready + (index + 1) * STEP_S
            if streaming:
                step_end = start - PERIOD_S + STEP_S + 0.001 if context or index else ready + STEP_S
            begin = step_end - STEP_S
            record.spans.append(Span("inference", "flow_step", begin, step_end, context, index))
            record.spans.append(Span("generator", "generate", begin - 0.001, step_end + 0.0005, context, index))
            executed += 1
            record.states.append(StateAt(start, _state(Mode.PLAYING, context, index, executed, starved_s, context)))
            if streaming and index == HORIZON - 2:
                observe_at = start + 0.002
        now = first + HORIZON * PERIOD_S
        if not streaming and context + 1 < contexts:
            observe_at = now
            record.states.append(StateAt(now, _state(Mode.HOLD, context, HORIZON - 1, executed, starved_s, context)))
    record.end_s = now
    for time_s in np.arange(begin_s, now, 0.25):
        for camera, base in (("corner2", 60), ("gripperPOV", 120)):
            picture = np.full((96, 96, 3), base, np.uint8)
            picture[:, : int(90 * (time_s - begin_s) / (now - begin_s)) + 1] = 200
            record.frames.append(Frame(float(time_s), camera, picture))
    record.counters = {"executor": {"late": 1}, "observer": {}}
    return record
