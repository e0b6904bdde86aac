"""The cache of one session: pre-allocated keys and values, and views that stay readable while it grows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache.policies.base import CachePolicy, Span
from kv_cache.rotary import rotate
from kv_cache.spec import CacheSpec

MAX_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class CacheView:
    """What attention reads; with the default `views` of SessionCache it outlives one append, but no reset or restore.

    Args:
        keys: [L, Hkv, N, d], rotated at their positions.
        values: [L, Hkv, N, d].
        next_position: position of the first token after the view.
    """

    keys: Tensor
    values: Tensor
    next_position: int

    @property
    def tokens(self) -> int:
        """Number of tokens N."""
        return self.keys.shape[2]


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds, next to what an uncompressed one would; the fields are those of KvCacheStats.msg."""

    policy: str
    tokens: int
    bytes: int
    allocated_bytes: int
    full_tokens: int
    full_bytes: int
    chunks_kept: int = 0
    chunks_dropped: int = 0
    chunks_evicted: int = 0
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class CacheSnapshot:
    """A copy of a cache's contents; `keys` are unrotated where the policy moves tokens, else rotated."""

    policy: CachePolicy
    keys: Tensor
    values: Tensor
    full_tokens: int


def required_bytes(spec: CacheSpec, policy: CachePolicy, views: int = 2) -> int:
    """Return the bytes that a SessionCache reserves."""
    half = policy.max_tokens * spec.bytes_per_token // 2  # keys alone, or values alone
    return half * (1 + 2 * views if policy.moves_tokens else 2)


class SessionCache:
    """Keys and values of one session under a policy. Not thread safe.

    A policy that moves tokens rewrites rotated keys, so these live in `views` banks that take turns. A policy that
    only adds needs one bank: what an older view reads is never written again.

    Args:
        spec: shape of a token.
        policy: which tokens live on.
        views: how many of the newest views are readable at the same time; 2 lets a flow step of the old
            context run after the next observation has been appended.
        max_bytes: most bytes that may be reserved.

    Raises:
        ValueError: views is not positive.
        MemoryError: the policy needs more than max_bytes; nothing has been reserved.
    """

    def __init__(self, spec: CacheSpec, policy: CachePolicy, views: int = 2, max_bytes: int = MAX_BYTES) -> None:
        if views < 1:
            raise ValueError(f"session cache: views is {views}, it must be at least 1")
        self.allocated_bytes = required_bytes(spec, policy, views)
        if self.allocated_bytes > max_bytes:
            raise MemoryError(
                f"session cache: policy {policy.name} with {policy.max_tokens} tokens needs {self.allocated_bytes} "
                f"bytes, {max_bytes} are allowed; keep fewer tokens"
            )
        self.spec = spec
        self.policy = policy
        banks = views if policy.moves_tokens else 1
        shape = (spec.layers, spec.kv_heads, policy.max_tokens, spec.head_dim)
        self._rotated = [torch.zeros(shape, dtype=spec.dtype) for _ in range(banks)]
        self._values = [torch.zeros(shape, dtype=spec.dtype) for _ in range(banks)]
        self._unrotated = torch.zeros(shape, dtype=spec.dtype) if policy.moves_tokens else None
        self._bank = 0
        self._tokens = 0
        self._full_tokens = 0

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add T tokens at the end; the policy may drop older ones.

        Args:
            keys: [L, Hkv, T, d], BEFORE rotation.
            values: [L, Hkv, T, d].

        Raises:
            ValueError: another shape, no token, or numbers that are not finite. The cache is unchanged.
            CacheFullError: see the policy. The cache is unchanged.
        """
        # a narrow format is entered before the check, so that a number too large for it is found
        keys, values = keys.to(self.spec.dtype), values.to(self.spec.dtype)
        self._check("keys", keys)
        self._check("values", values)
        added = keys.shape[2]
        if values.shape[2] != added:
            raise ValueError(f"append: {added} keys and {values.shape[2]} values, their number must be equal")
        spans = self.policy.retain(self._tokens, added)
        if spans == ((0, self._tokens + added),):
            self._write(self._tokens, keys, values)
        elif self._unrotated is not None:
            kept_keys = torch.cat(list(self._gather(spans, self._unrotated, keys)), dim=2)
            kept_values = torch.cat(list(self._gather(spans, self._values[self._bank], values)), dim=2)
            self._bank = (self._bank + 1) % len(self._rotated)
            self._write(0, kept_keys, kept_values)
        else:
            raise TypeError(f"cache policy {self.policy.name} drops tokens but says that it does not move any")
        self._full_tokens += added

    def view(self) -> CacheView:
        """Return what attention reads now; costs nothing, the work was done by the append."""
        filled = slice(0, self._tokens)
        return CacheView(self._rotated[self._bank][:, :, filled], self._values[self._bank][:, :, filled], self._tokens)

    def reset(self) -> None:
        """Forget everything; memory stays reserved, older views are void."""
        self._tokens = self._full_tokens = 0

    def stats(self) -> CacheStats:
        """Return sizes in tokens and bytes."""
        each = self.spec.bytes_per_token
        return CacheStats(
            policy=self.policy.name,
            tokens=self._tokens,
            bytes=self._tokens * each,
            allocated_bytes=self.allocated_bytes,
            full_tokens=self._full_tokens,
            full_bytes=self._full_tokens * each,
        )

    def snapshot(self) -> CacheSnapshot:
        """Return a copy that later appends do not touch."""
        filled = slice(0, self._tokens)
        keys = self._rotated[self._bank] if self._unrotated is None else self._unrotated
        return CacheSnapshot(
            self.policy,
            keys[:, :, filled].clone(),
            self._values[self._bank][:, :, filled].clone(),
            self._full_tokens,
        )

    def restore(self, snapshot: CacheSnapshot) -> None:
        """Hold again what `snapshot` holds; older views are void.

        Raises:
            ValueError: the snapshot is of another policy or shape. The cache is unchanged.
        """
        if snapshot.policy != self.policy:
            raise ValueError(f"restore: the snapshot is of {snapshot.policy}, this cache has {self.policy}")
        if snapshot.keys.shape[2]:
            self._check("keys", snapshot.keys)
            self._check("values", snapshot.values)
        if self._unrotated is None:
            self._tokens = snapshot.keys.shape[2]
            self._rotated[self._bank][:, :, : self._tokens] = snapshot.keys
            self._values[self._bank][:, :, : self._tokens] = snapshot.values
        else:
            self._write(0, snapshot.keys, snapshot.values)
        self._full_tokens = snapshot.full_tokens

    def _check(self, name: str, tensor: Tensor) -> None:
        spec = self.spec
        sizes = (spec.layers, spec.kv_heads, spec.head_dim)
        shape = tuple(tensor.shape)
        if shape[:2] + shape[3:] != sizes or not shape[2]:
            raise ValueError(
                f"session cache: {name} have shape {shape}, expected "
                f"({spec.layers}, {spec.kv_heads}, tokens, {spec.head_dim}) with at least one token"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"session cache: {name} are not finite, they would spoil every later step of the session")

    def _write(self, start: int, keys: Tensor, values: Tensor) -> None:
        """Put tokens at start, start + 1, ... of the current bank; they become the newest ones."""
        stop = start + keys.shape[2]
        rotated = rotate(keys, torch.arange(start, stop, device=keys.device), self.spec.rope_base)
        self._rotated[self._bank][:, :, start:stop] = rotated
        self._values[self._bank][:, :, start:stop] = values
        if self._unrotated is not None:
            self._unrotated[:, :, start:stop] = keys
        self._tokens = stop

    def _gather(self, spans: tuple[Span, ...], held: Tensor, added: Tensor) -> Iterator[Tensor]:
        """Yield the pieces of `spans` of the held tokens [L, Hkv, C, d] followed by the added ones [L, Hkv, T, d]."""
        for start, stop in spans:
            if start < self._tokens:
                yield held[:, :, start : min(stop, self._tokens)]
            if stop > self._tokens:
                yield added[:, :, max(start - self._tokens, 0) : stop - self._tokens]
