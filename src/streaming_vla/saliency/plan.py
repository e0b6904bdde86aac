"""What a policy plans as a reason to look: a gripper that is about to open or close.

Where the hand is when the gripper switches decides the task, and nothing undoes it. The rest of a motion forgives an
old picture: the next one corrects it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streaming_vla.policies.layout import Vector


def planned_switch(plan: Vector, absolute: Sequence[bool], first: int) -> float:
    """Return how far an absolute dimension is going to change, action units.

    Args:
        plan: [H, A], all actions of a context.
        absolute: [A], True where an action is no change but the value itself (a gripper's effort).
        first: the action that begins; what comes before is done.

    Raises:
        ValueError: no dimension is absolute.
    """
    values = plan[first:, np.asarray(absolute, dtype=bool)]
    if not values.size:
        raise ValueError("planned switch: no action dimension is absolute, or no action is left")
    return float(np.ptp(values, axis=0).max())
