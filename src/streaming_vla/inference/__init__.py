"""The inference engine: one policy, one KV session per robot, one worker thread. No ROS in here."""

from streaming_vla.inference.engine import Engine
from streaming_vla.inference.options import EngineOptions
from streaming_vla.inference.values import (
    ContextReport,
    EncodedObservation,
    FlowResult,
    Refusal,
    ResetResult,
    SaliencyRequest,
    SaliencyResult,
)

__all__ = [
    "ContextReport",
    "EncodedObservation",
    "Engine",
    "EngineOptions",
    "FlowResult",
    "Refusal",
    "ResetResult",
    "SaliencyRequest",
    "SaliencyResult",
]
