"""How much each row of a chunk is held to the actions that are planned already (real-time chunking)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

SCHEDULES = ("linear", "exp")


def prefix_weights(horizon: int, delay: int, end: int, schedule: str) -> npt.NDArray[np.float64]:
    """Return the weight of each row, [horizon]: 1 before `delay`, falling to 0 at `end`.

    c_i = (end - i) / (end - d + 1) for d <= i < end with d = min(delay, end); "linear" takes c_i itself, "exp"
    c_i (e^c_i - 1) / (e - 1) (arXiv 2506.07339, equation 5).

    Raises:
        ValueError: another schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is '{schedule}', expected one of {', '.join(SCHEDULES)}")
    frozen = min(delay, end)
    rows = np.arange(horizon)
    ramp = (end - rows) / (end - frozen + 1)
    falling = ramp if schedule == "linear" else ramp * np.expm1(ramp) / math.expm1(1.0)
    return np.where(rows < frozen, 1.0, np.where(rows < end, falling, 0.0))
