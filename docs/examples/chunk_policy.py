"""A chunk policy: all actions of a context are denoised at once, guided by those that are planned already."""

from collections.abc import Generator

import numpy as np
import torch

from kv_cache.cache import CacheView
from streaming_vla.policies.contract import Guide, PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.layout import ActionLayout

GOAL = np.array([0.1, 0.7, 0.25])  # of the hand, metres
UNIT = 0.01  # metres that the hand moves by 1 in action units
ROWS = 20
LAYOUT = ActionLayout(("dx", "dy", "dz", "gripper"), (False, False, False, True), (-1.0,) * 4, (1.0,) * 4, (0.0,) * 4)
SPEC = PolicySpec("goal_chunks", ("corner2", "gripperPOV"), 96, 4, LAYOUT, 10, ROWS, control_period_s=0.05)


class GoalChunkPolicy:
    """Looks at no picture: the state says where the hand is."""

    spec = SPEC

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Run the network on observation.images here, and yield where other robots' actions may go first."""
        yield
        nothing = torch.zeros(1, 1, 1, 2)  # keys and values for the history: this policy has none
        return Prefilled(nothing, nothing, context=observation.state)

    def denoise(
        self, view: CacheView, context: np.ndarray, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Generator[None, None, np.ndarray]:
        """Return the chunk, [20, 4], after Euler steps from noise; row 0 is the action that began with the picture."""
        chunk = random.standard_normal((ROWS, 4))
        for step in range(steps):
            time = step / steps  # 0 at noise, 1 at actions
            velocity = (self.wanted(context[:3]) - chunk) / (1.0 - time)  # a network says it
            if guide is not None:
                velocity = velocity + guide.correction(chunk + (1.0 - time) * velocity, time)
            chunk = chunk + velocity / steps
            yield
        return chunk

    def wanted(self, hand: np.ndarray) -> np.ndarray:
        """Return the rows of a proportional controller, [20, 4]."""
        rows = []
        for _ in range(ROWS):
            move = np.clip(0.1 * (GOAL - hand) / UNIT, -1.0, 1.0)
            hand = hand + UNIT * move
            rows.append(np.append(move, -1.0))
        return np.array(rows)
