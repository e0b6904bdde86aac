"""What goes into the engine and what comes out: plain values, no messages.

Every refusal has a `code`, the name under which it is counted, and a `reason`, one sentence for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.layout import Vector

if TYPE_CHECKING:  # these values are used by nodes that must not pay for importing torch
    from kv_cache.cache import CacheStats


@dataclass(frozen=True)
class EncodedObservation:
    """An observation as it travels.

    Args:
        session: namespace of the robot.
        images: one JPEG per camera, in the policy's order, already of the policy's size.
        state: [state_size], in the policy's order and units.
    """

    session: str
    episode: int
    sequence: int
    instruction: str
    images: tuple[bytes, ...]
    state: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ContextReport:
    """An observation has been prefilled; its sequence names the context in flow requests.

    Args:
        tokens: that the flow attends to.
        prefill_s: model time, seconds, decoding included, waiting left out.
        queued_s: waiting before and between the slices, seconds.
        flow_step_s: smoothed model time of one flow step, seconds; 0 before there is one.
        stats: of the session's cache.
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


@dataclass(frozen=True)
class Refusal:
    """An observation that was not prefilled."""

    session: str
    episode: int
    sequence: int
    code: str
    reason: str


@dataclass(frozen=True)
class FlowResult:
    """Answer to a flow request; `values` [A] is empty and compute_s 0 when it was not accepted."""

    accepted: bool
    code: str
    reason: str
    values: Vector
    compute_s: float
    queued_s: float


@dataclass(frozen=True)
class SaliencyRequest:
    """Asks for the saliency of a context.

    Args:
        context: sequence of the observation to look ahead from.
        index: action that begins now, 0 .. trained_horizon - 1.
        pending: [A], sum of the actions that its picture does not show (newest value for absolute dimensions).
        of: "plan" or "pictures" (saliency.decision.SALIENCY_OF).
    """

    episode: int
    context: int
    index: int
    pending: Vector
    of: str


@dataclass(frozen=True)
class SaliencyResult:
    """Answer to a SaliencyRequest; `saliency` is NaN when it was not accepted, `planned` tells that it took a plan."""

    accepted: bool
    code: str
    reason: str
    saliency: float
    planned: bool = False


@dataclass(frozen=True)
class ResetResult:
    """Answer to a reset."""

    accepted: bool
    code: str
    reason: str
