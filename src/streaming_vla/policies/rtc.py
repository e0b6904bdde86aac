"""Real-time chunking (arXiv 2506.07339): how much a new chunk is held to what is planned already.

Free of torch, because the state machines that make a guide are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.guide import Guide, Matrix

SCHEDULES = ("linear", "exp")


def weights(horizon: int, delay: int, end: int, schedule: str = "exp") -> npt.NDArray[np.float64]:
    """Return W of RTC, [H]: 1 for the frozen rows, falling over the overlap, 0 behind it (equation 5).

    W_i = 1 for i < d; w(c_i) with c_i = (e - i) / (e - d + 1) for d <= i < e; else 0.

    Args:
        horizon: H.
        delay: d; at most e counts.
        end: e, rows that overlap with what is planned (H - s of the paper).
        schedule: "exp": w(c) = c (e^c - 1) / (e - 1), the paper's; "linear": w(c) = c, LeRobot's other one.

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


def guide_towards(planned: Matrix, delay: int, horizon: int, beta: float = 5.0, exact: bool = False) -> Guide | None:
    """Return what a new chunk is pulled towards, None when nothing is planned.

    Args:
        planned: [n, A], actions from the chunk's row 0 on.
        delay: actions of them that will be executed before the new chunk takes over.
        horizon: H, rows of a chunk.
        beta: largest gain.
        exact: through the true Jacobian of the denoised chunk; otherwise the identity.
    """
    overlap = min(len(planned), horizon)
    if not overlap:
        return None
    target = np.zeros((horizon, planned.shape[1]))
    target[:overlap] = planned[:overlap]
    return Guide(target, weights(horizon, delay, overlap), beta, exact)
