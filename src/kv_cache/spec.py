"""What a cache holds: layers, heads, head size, number format and rotary base."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CacheSpec:
    """The shape of one token's keys and values.

    Args:
        layers: attention layers L that are cached.
        kv_heads: key and value heads Hkv per layer.
        head_dim: size d of one head; even, because rotary positions turn pairs of numbers.
        dtype: floating point format of the stored numbers.
        rope_base: base of the rotary frequencies.

    Raises:
        ValueError: a size is not positive, head_dim is odd, or dtype is not a floating point format.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        for field in ("layers", "kv_heads", "head_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"cache spec: {field} is {getattr(self, field)}, it must be at least 1")
        if self.head_dim % 2:
            raise ValueError(f"cache spec: head_dim is {self.head_dim}, rotary positions need an even number")
        if not self.dtype.is_floating_point:
            raise ValueError(f"cache spec: dtype is {self.dtype}, it must be a floating point format")
        if not self.rope_base > 1.0:
            raise ValueError(f"cache spec: rope_base is {self.rope_base}, it must be above 1")

    @property
    def bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize
