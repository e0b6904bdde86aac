"""Time of a flow as sines and cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def embed_time(time: float | Tensor, width: int, shortest: float, longest: float, device: torch.device) -> Tensor:
    """Return sin and cos (in this order) of 2 pi time / period, [..., width] float32, computed in float64.

    Args:
        time: one, or [...] of them; rounded to float32 first, as LeRobot hands it over: the shortest period makes
            that visible.
        width: even; periods are width / 2 values in geometric order.
        shortest, longest: period.
    """
    share = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=device)
    rounded = time.float() if isinstance(time, Tensor) else torch.tensor(time, dtype=torch.float32, device=device)
    angle = rounded.double().unsqueeze(-1) * 2.0 * math.pi / (shortest * (longest / shortest) ** share)
    return torch.cat((angle.sin(), angle.cos()), dim=-1).float()
