"""Values that the tests of the machines share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from streaming_vla.machines.events import Action, Command, ContextReady, Episode, ExecutionState, Mode
from streaming_vla.options.shared import layout_values
from streaming_vla.policies.layout import ActionLayout

T = TypeVar("T")

PERIOD_S = 0.05
LAYOUT = ActionLayout(
    names=("dx", "dy", "grip"),
    absolute=(False, False, True),
    low=(-1.0, -1.0, -1.0),
    high=(1.0, 1.0, 1.0),
    initial=(0.0, 0.0, -1.0),
)
ACTS = layout_values(LAYOUT)  # the options that say so
NO_LIMIT = (1.0e6,) * LAYOUT.size
PLAYS: dict[str, Any] = {
    **ACTS,
    "scale": (1.0,) * LAYOUT.size,
    "maximum_lead": (0.3,) * LAYOUT.size,
    "keep_when_stopped": LAYOUT.absolute,
    "velocity_limit": NO_LIMIT,
    "jump_limit": NO_LIMIT,
}
EPISODE = Episode(7, active=True, instruction="open the drawer")


def action(context: int, index: int, values: Sequence[float] = (0.1, 0.2, 0.3), episode: int = 7) -> Action:
    """Return an action of a context of ten."""
    return Action(episode, context, index, index / 10, np.asarray(values, dtype=np.float64), index < 9)


def context(sequence: int, horizon: int = 4, trained: int = 6, episode: int = 7) -> ContextReady:
    """Return a context with a short horizon."""
    return ContextReady(episode, sequence, horizon, trained, flow_step_s=0.01)


def state(
    mode: Mode = Mode.PLAYING,
    context: int = -1,
    index: int = -1,
    queue_depth: int = 0,
    executed: int = 0,
    episode: int = 7,
) -> ExecutionState:
    """Return what an executor would say."""
    held = mode in (Mode.HOLD, Mode.DECELERATE, Mode.ERROR)
    cumulative = np.array([0.5, 0.5, 0.25])
    return ExecutionState(episode, mode, context, index, queue_depth, executed, cumulative, held, held, 0.0, 0.0, 0, 0)


def only(effects: Sequence[object], kind: type[T]) -> list[T]:
    """Return the effects of one class."""
    return [effect for effect in effects if isinstance(effect, kind)]


def commands(effects: Sequence[object]) -> list[Command]:
    """Return the commands among the effects."""
    return only(effects, Command)
