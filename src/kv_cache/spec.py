"""What a cache holds: layers, heads, head size, number format and rotary frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kv_cache.rotary import frequencies_of


@dataclass(frozen=True)
class CacheSpec:
    """The shape of one token's keys and values.

    Args:
        layers: attention layers L that are cached.
        kv_heads: key and value heads Hkv per layer.
        head_dim: size d of one head; even, because rotary positions turn pairs of numbers.
        dtype: floating point format of the stored numbers.
        rope_base: base of the rotary frequencies.
        query_heads: query heads Hq per layer, a multiple of kv_heads; 0: as many as kv_heads.
        inverse_frequencies: a model's own rotary frequencies, radians per position, where rope_base does not give
            them (scaled or partial rotary positions); empty: those of rope_base.

    Raises:
        ValueError: a size is not positive or does not divide, head_dim is odd, or dtype is not a floating point format.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    rope_base: float = 10000.0
    query_heads: int = 0
    inverse_frequencies: tuple[float, ...] = ()

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
        if self.query_heads < 0 or self.query_heads % self.kv_heads:
            raise ValueError(
                f"cache spec: query_heads is {self.query_heads}, it must be a multiple of kv_heads ({self.kv_heads})"
            )
        if 2 * len(self.inverse_frequencies) > self.head_dim:
            raise ValueError(
                f"cache spec: {len(self.inverse_frequencies)} inverse_frequencies turn more numbers than head_dim "
                f"({self.head_dim}) has"
            )

    @property
    def bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def flops_per_pair(self) -> int:
        """FLOPs of attention for one query token and one key token, all layers: scores and sum, 2 FLOPs each number."""
        return 4 * self.layers * (self.query_heads or self.kv_heads) * self.head_dim

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Rotary frequencies, radians per position."""
        return self.inverse_frequencies or tuple(frequencies_of(self.head_dim, self.rope_base).tolist())

    @property
    def table_dtype(self) -> torch.dtype:
        """Format in which rotations are computed."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32
