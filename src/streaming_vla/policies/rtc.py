"""Real-time chunking (arXiv 2506.07339): how much a new chunk is held to what is planned already.

Free of torch, because the state machines that make a guide are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.guide import Guide, Matrix


def weights(horizon: int, delay: int, executed: int) -> npt.NDArray[np.float64]:
    """Return W of RTC, [H]: 1 for the frozen rows, falling over the overlap, 0 behind it (equation 5).

    W_i = 1 for i < d; c_i (e^c_i - 1) / (e - 1) with c_i = (H - s - i) / (H - s - d + 1) for d <= i < H - s; else 0.

    Args:
        horizon: H.
        delay: d; at most H - s count.
        executed: s, actions of the old chunk that were executed when its successor was asked for.
    """
    overlap = horizon - executed
    frozen = min(delay, overlap)
    rows = np.arange(horizon)
    ramp = (overlap - rows) / (overlap - frozen + 1)
    falling = ramp * np.expm1(ramp) / math.expm1(1.0)
    return np.where(rows < frozen, 1.0, np.where(rows < overlap, falling, 0.0))


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
    return Guide(target, weights(horizon, delay, horizon - overlap), beta, exact)
