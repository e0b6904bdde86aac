"""How a learning rate falls over a run."""

from __future__ import annotations

import math


def cosine(progress: float) -> float:
    """Return the share of the rate at `progress` (0 to 1) of a run: from 1 to a hundredth."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
