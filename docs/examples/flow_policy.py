"""A flow policy: the hand goes to one place, as a proportional controller sends it. One action per step."""

from collections.abc import Generator

import numpy as np
import torch

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.layout import ActionLayout

GOAL = np.array([0.1, 0.7, 0.25])  # of the hand, metres
UNIT = 0.01  # metres that the hand moves by 1 in action units
LAYOUT = ActionLayout(
    names=("dx", "dy", "dz", "gripper"),
    absolute=(False, False, False, True),  # three changes, and an effort that is the command itself
    low=(-1.0,) * 4,
    high=(1.0,) * 4,
    initial=(0.0, 0.0, 0.0, -1.0),
)
SPEC = PolicySpec("goal", ("corner2", "gripperPOV"), 96, 4, LAYOUT, 10, 20, control_period_s=0.05)


class GoalPolicy:
    """Looks at no picture: the state says where the hand is."""

    spec = SPEC

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Run the network on observation.images here, and yield where other robots' actions may go first."""
        yield
        nothing = torch.zeros(1, 1, 1, 2)  # keys and values for the history: this policy has none
        return Prefilled(nothing, nothing, context=observation.state)

    def flow_step(self, query: FlowQuery) -> np.ndarray:
        """Return the next action, [4]; the newest state may be newer than the picture."""
        state = query.context if query.state is None else query.state
        move = np.clip(0.1 * (GOAL - state[:3]) / UNIT, -1.0, 1.0)
        return np.append(move, -1.0)
