"""What goes into the engine and what comes out: plain values, no messages.

Every refusal has a `code`, the name under which it is counted, and a `reason`, one sentence for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streaming_vla.machines.events import GeneratedAction, SaliencyReply

if TYPE_CHECKING:  # these values are used by nodes that must not pay for importing torch
    from kv_cache.cache import CacheStats


@dataclass(frozen=True)
class EncodedObservation:
    """An observation as it travels.

    Args:
        session: namespace of the robot.
        images: one JPEG per camera, in the policy's order, already of the policy's size.
        state: [state_size], in the policy's order and units.
        pending: [A], sum of the actions that are executed between the pictures and the hand-over (see
            PolicyObservation); None: not told.
        pictures: [cameras, S, S, 3], RGB, in the place of `images` where they are decoded already.
    """

    session: str
    episode: int
    sequence: int
    instruction: str
    images: tuple[bytes, ...]
    state: npt.NDArray[np.float32]
    pending: npt.NDArray[np.float64] | None = None
    pictures: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class ContextReport:
    """An observation has been prefilled; its sequence names the context in flow requests.

    Args:
        tokens: that the flow attends to.
        prefill_s: model time, seconds, decoding included, waiting left out.
        denoise_s: of that, denoising of a chunk, seconds.
        queued_s: waiting before and between the slices, seconds.
        flow_step_s: smoothed model time of one flow step, seconds; 0 before there is one.
        stats: of the session's cache.
        trained_delay, chunk, history_from, remembers: see machines.events.ContextReady.
    """

    session: str
    episode: int
    sequence: int
    tokens: int
    execution_horizon: int
    trained_horizon: int
    prefill_s: float
    queued_s: float
    flow_step_s: float
    stats: CacheStats
    trained_delay: int = 0
    chunk: bool = False
    denoise_s: float = 0.0
    history_from: int = 0
    remembers: bool = False


@dataclass(frozen=True)
class Refusal:
    """An observation that was not prefilled."""

    session: str
    episode: int
    sequence: int
    code: str
    reason: str


@dataclass(frozen=True)
class ResetResult:
    """Answer to a reset."""

    accepted: bool
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Reply:
    """What the engine sends to a robot.

    Args:
        session: namespace of the robot.
        request: number of the request that it answers, of saliencies and resets; None for what comes unasked.
        done_s: when it was made, clock of the engine's thread; what a network holds back goes out later.
    """

    session: str
    value: ContextReport | Refusal | GeneratedAction | SaliencyReply | ResetResult
    request: int | None = None
    done_s: float = float("nan")
