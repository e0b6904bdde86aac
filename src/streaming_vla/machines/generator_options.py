"""The options of the generator."""

from __future__ import annotations

from typing import Literal, get_args

from streaming_vla.options.option import option
from streaming_vla.options.shared import (
    ActionOptions,
    ContextOptions,
    NodeOptions,
    RobotStateOptions,
    realtime_priority,
)

HandOverStart = Literal["rezero", "episode", "pending"]
STARTS = get_args(HandOverStart)


class GeneratorOptions(ContextOptions, RobotStateOptions, ActionOptions, NodeOptions):
    """How actions are generated and handed over."""

    release: Literal["stream", "chunk"] = option(
        "stream",
        "stream sends each action when it exists, chunk sends all of a context at once (synchronous baseline).",
        live=True,
    )
    overrun: bool = option(
        True, "Go on with the old context, up to its trained horizon, until the new one is ready.", live=True
    )
    generate_timeout_s: float = option(
        0.5,
        "An action that was asked for and has not come for this long is given up.",
        "s",
        live=True,
        ge=0.01,
        le=60.0,
    )
    max_context_age_s: float = option(
        5.0,
        "A context whose observation was asked for longer ago is not acted on.",
        "s",
        live=True,
        guards=True,
        ge=0.1,
        le=120.0,
    )
    hand_over_start: HandOverStart = option(
        "rezero",
        "What a new flow starts from: rezero = nothing, episode = sum of all actions of the episode, pending = sum of "
        "those since its picture was taken; the latter two leave no action out, set trained_delay to 1000 for them.",
        live=True,
    )
    hand_over_jump: float = option(
        0.0,
        "Largest change between actions in a row after a hand-over, in dimensions that are changes; 0 sets no bound.",
        "action units",
        live=True,
        ge=0.0,
        le=1.0e6,
    )
    realtime_priority: int = realtime_priority(40)
