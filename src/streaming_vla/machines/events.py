"""What the state machines tell each other: plain values, one class per message of the suite.

All times given to a machine are seconds of ONE clock: that of the process that hosts it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


class Reason(IntEnum):
    """Why an observation is asked for; the numbers are those of ObserveRequest.msg."""

    START = 1
    QUEUE_EMPTY = 2
    EARLY = 3
    MAX_SILENCE = 4
    LAST_CHANCE = 5


class Mode(IntEnum):
    """What the executor does; the numbers are those of ExecutionState.msg."""

    IDLE = 0
    WAITING = 1
    PLAYING = 2
    HOLD = 3
    DECELERATE = 4
    ERROR = 5


@dataclass(frozen=True)
class Episode:
    """The episode that the suite works on; `number` counts from 1.

    `stopped`: the executor has stopped the robot in it for good, also for one that is started again.
    """

    number: int
    active: bool
    instruction: str = ""
    stopped: bool = False


@dataclass(frozen=True)
class ObserveRequest:
    """Asks the observer for one observation; `saliency` is what decided, in units of the mode, NaN when nothing did."""

    episode: int
    sequence: int
    reason: Reason
    saliency: float = float("nan")


@dataclass(frozen=True)
class ContextReady:
    """An observation has been prefilled.

    Args:
        sequence: of the observation; names the context.
        execution_horizon: actions that it is meant to execute.
        trained_horizon: actions that it may execute at most (overrun).
        flow_step_s: smoothed model time of one flow step, seconds; 0 before the first.
        trained_delay: the policy has learned to begin so many actions behind the picture, at most.
        chunk: all its actions exist, and each belongs to a fixed time behind the picture.
        history_from: sequence of the oldest observation that the history was given in this episode.
        remembers: the history keeps what no newer observations replace.
    """

    episode: int
    sequence: int
    execution_horizon: int
    trained_horizon: int
    flow_step_s: float = 0.0
    trained_delay: int = 0
    chunk: bool = False
    history_from: int = 0
    remembers: bool = False


@dataclass(frozen=True)
class GenerateRequest:
    """Lets the model send the actions of a context's flow from `step` up to before `until`, each when it exists.

    The model follows the flow's state by itself. A request of the same revision grants more steps; one of a higher
    revision begins anew from its step and position, because the actions that follow were generated from another one.
    It may be asked for a context that does not exist yet: its first actions then travel with it. A request for a newer
    context that exists ends the flows of older ones.

    Args:
        context: sequence of the observation.
        revision: counts up with every new beginning of this context's flow.
        step: step of the flow, 0 .. trained_horizon - 1.
        position: [A], the flow's state at `step`.
        until: steps that are granted end before it, or with the flow.
        state: [state_size], the robot's newest state in the policy's order; None: not known.
        state_age_s: how old it was when this was sent, seconds.
        pending: [A], sum of the actions that are executed between `state` and `step` (newest value for absolute
            dimensions), as far as they are known; None: not known.
        sent: [A], sum of all actions of the episode that were sent by now, behind which `step` comes; None: not known.
        planned: [n, A], the action that began with the context's picture and those planned behind it; None: not told.
        delay: of `planned`, actions that are expected to be executed before this context takes over.
    """

    episode: int
    context: int
    revision: int
    step: int
    position: Vector
    until: int
    state: Vector | None = None
    state_age_s: float = float("nan")
    pending: Vector | None = None
    sent: Vector | None = None
    planned: Vector | None = None
    delay: int = 0


@dataclass(frozen=True)
class GeneratedAction:
    """One action of a context's flow; `values` [A] counts only when accepted.

    Args:
        revision: of the request whose beginning it comes from.
        step: of the flow.
        code: what a refusal is counted by.
        reason: one sentence when it was refused.
        compute_s: model time, seconds.
        queued_s: from the request, or the action before, to the begin of the model's work, seconds.
    """

    episode: int
    context: int
    revision: int
    step: int
    accepted: bool
    values: Vector
    code: str = ""
    reason: str = ""
    compute_s: float = 0.0
    queued_s: float = 0.0


@dataclass(frozen=True)
class SaliencyQuestion:
    """Asks the model for the saliency of a context.

    Args:
        context: the context whose picture is compared with, or whose plan is looked at.
        index: action at whose begin it is asked; names the question together with the context.
        pending: [A], actions executed since that picture, summed where they are changes, else the newest value.
        of: what is asked, see saliency.decision.SALIENCY_OF.
    """

    episode: int
    context: int
    index: int
    pending: Vector
    of: str


@dataclass(frozen=True)
class SaliencyReply:
    """Answer to a SaliencyQuestion.

    Args:
        saliency: in the units of what was asked; NaN when it was not accepted.
        code: what a refusal is counted by.
        reason: one sentence when it was refused.
    """

    episode: int
    context: int
    index: int
    accepted: bool
    saliency: float
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Action:
    """One action of one step of the flow; `values` is [A], `flow_time` in [0, 1]."""

    episode: int
    context: int
    index: int
    flow_time: float
    values: Vector
    more: bool


@dataclass(frozen=True)
class ExecutionState:
    """What the executor does; the fields are those of ExecutionState.msg."""

    episode: int
    mode: Mode
    context: int
    index: int
    queue_depth: int
    executed: int
    cumulative_action: Vector
    held: bool
    starved: bool
    held_s: float
    starved_s: float
    hand_overs: int
    rejected: int
    instruction: str = ""
    dry_run: bool = False
    resumes: bool = False
    respawn_hold_s: float = math.inf


@dataclass(frozen=True)
class NodesAway:
    """Which nodes of a supervisor are not there: being started again, or not heard of; () when all are.

    Args:
        supervisor: who says it.
        nodes: by name.
        away_s: seconds since each was heard of.
    """

    supervisor: str
    nodes: tuple[str, ...] = ()
    away_s: tuple[float, ...] = ()


class CommandKind(IntEnum):
    """Why a command is sent to the robot."""

    PLAY = 0
    HOLD = 1
    DECELERATE = 2
    STOP = 3


@dataclass(frozen=True)
class Command:
    """What the robot is told: an action [A] in the layout; `progress` in [0, 1] through a deceleration."""

    kind: CommandKind
    values: Vector
    progress: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The newest synchronised set of frames, answering one request.

    Args:
        frames: payload of each camera as it was handed to the observer, by camera name.
        stamp_ns: capture stamp of the newest frame of the set, nanoseconds, on the cameras' clock.
        skew_s: reception of the oldest to that of the newest frame of the set, seconds.
        state: robot state in the policy's order and units, [state_size].
    """

    request: ObserveRequest
    frames: Mapping[str, Any]
    stamp_ns: int
    skew_s: float
    state: Vector
    instruction: str
