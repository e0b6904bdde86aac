"""Rotary positions (RoPE, arXiv 2104.09864) in the half-split convention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def frequencies_of(head_dim: int, base: float, device: torch.device | None = None) -> Tensor:
    """Return base^(-2i/d) for the d/2 pairs of a head, [d/2] radians per position, float64.

    Raises:
        ValueError: head_dim is odd.
    """
    half, odd = divmod(head_dim, 2)
    if odd:
        raise ValueError(f"rotate: the head size is {head_dim}, rotary positions need an even number")
    frequencies: Tensor = base ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    return frequencies


def angles(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of positions [..., T] times frequencies [F], each [..., T, F] in float64.

    In float32 an angle at position 100 000 would be wrong in its third decimal.
    """
    turned = positions.to(torch.float64).unsqueeze(-1) * frequencies.to(torch.float64)
    return turned.cos(), turned.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """Turn the pairs (x[i], x[i + F]) of the first 2F numbers of a head; the rest, if any, stays.

    Args:
        x: [..., T, d], d at least 2F.
        cos, sin: [..., T, F], of any float format.
        out: where to put the answer; None: into a tensor of its own.

    Returns:
        [..., T, d], in the type of `x`, computed in float32 or wider.
    """
    count = cos.shape[-1]
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    cos, sin = cos.to(wide), sin.to(wide)
    first, second = x[..., :count].to(wide), x[..., count : 2 * count].to(wide)
    turned = ((first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype))
    return torch.cat((*turned, x[..., 2 * count :]), dim=-1, out=out)


def rotate(x: Tensor, positions: Tensor, base: float = 10000.0, frequencies: Sequence[float] | None = None) -> Tensor:
    """Turn every pair (x[i], x[i + d/2]) of a head by position * base^(-2i/d).

    The product of a query and a key that are both rotated depends on the difference of their positions only. A turn
    by the negative position undoes it.

    Args:
        x: [..., T, d], d even.
        positions: [T], any number type, on the device of `x`.
        base: of the frequencies.
        frequencies: [F] of a model's own, radians per position, used in place of those of `base`; the first 2F
            numbers of a head are then turned.

    Returns:
        [..., T, d], in the type of `x`.

    Raises:
        ValueError: d is odd, or positions is not [T].
    """
    if positions.shape != x.shape[-2:-1]:
        raise ValueError(f"rotate: positions have shape {tuple(positions.shape)}, expected ({x.shape[-2]},)")
    if frequencies is None:
        used = frequencies_of(x.shape[-1], base, x.device)
    else:
        used = torch.tensor(frequencies, dtype=torch.float64, device=x.device)
    return apply_rotary(x, *angles(positions, used))
