"""Rotary positions (RoPE, arXiv 2104.09864) in the half-split convention."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Turn every pair (x[i], x[i + d/2]) of a head by position * base^(-2i/d).

    The product of a query and a key that are both rotated depends on the difference of their positions only.

    Args:
        x: [..., T, d], d even.
        positions: [T], any number type, on the device of `x`.
        base: of the frequencies.

    Returns:
        [..., T, d], in the type of `x`.

    Raises:
        ValueError: d is odd, or positions is not [T].
    """
    half, odd = divmod(x.shape[-1], 2)
    if odd:
        raise ValueError(f"rotate: the head size is {x.shape[-1]}, rotary positions need an even number")
    if positions.shape != x.shape[-2:-1]:
        raise ValueError(f"rotate: positions have shape {tuple(positions.shape)}, expected ({x.shape[-2]},)")
    # in float64: at position 100 000 a float32 angle is already wrong in its third decimal
    frequencies = base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angles = positions.to(torch.float64).unsqueeze(-1) * frequencies
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    cos, sin = angles.cos().to(wide), angles.sin().to(wide)
    first, second = x[..., :half].to(wide), x[..., half:].to(wide)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
