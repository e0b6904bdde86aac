"""The cache of one session: pre-allocated keys and values, and views that stay readable while it grows."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from kv_cache.checks import check_queries, check_tokens
from kv_cache.chunks import Queries, State
from kv_cache.compress import Judgement, fit, judge
from kv_cache.policies.base import CachePolicy
from kv_cache.rotary import apply_rotary, rotate
from kv_cache.slots import SlotRotations, pick, pieces
from kv_cache.spec import CacheSpec
from kv_cache.view import CacheSnapshot, CacheStats, CacheView, Ledger

__all__ = ["MAX_BYTES", "CacheSnapshot", "CacheStats", "CacheView", "SessionCache", "required_bytes"]
MAX_BYTES = 2 * 1024**3
MASS = torch.float32  # of the attention that a token has received
LIVE = ("budget", "threshold")  # of a policy, what may change while a session goes on
CPU = torch.device("cpu")


def required_bytes(spec: CacheSpec, policy: CachePolicy, views: int = 0) -> int:
    """Return the bytes that a SessionCache reserves, and those of so many of its views while they are held.

    A view of a policy that moves tokens has rotated keys of its own; all but the newest keep values of their own too.
    """
    half = policy.max_tokens * spec.bytes_per_token // 2  # keys alone, or values alone
    if not policy.moves_tokens:
        return 2 * half
    mass = policy.max_tokens * MASS.itemsize if policy.reads_queries else 0
    own = policy.state_bytes(spec, 1) + mass + SlotRotations.most_bytes(spec, policy.sizes)
    return half * (2 + max(0, 2 * views - 1)) + own


class SessionCache:
    """Keys and values of one session under a policy. Not thread safe.

    Every slot is [sinks | kept chunks | recent tokens], without holes. A policy that moves tokens has its keys stored
    before rotation: a view turns them, so that moving a token any number of times adds no error. What a view reads is
    never written again: what leaves a policy's window is left out of a new pair of tensors, not of the view's.

    Args:
        spec: shape of a token.
        policy: which tokens live on.
        views: how many views are held at a time, at most: 2 where a flow step of the old context runs after the next
            observation has been appended. Their memory counts in max_bytes, and is taken while they are held.
        max_bytes: most bytes that may be taken.
        device: where the tokens live.

    Raises:
        ValueError: views is not positive, or the policy was made for another shape.
        MemoryError: the policy needs more than max_bytes; nothing has been reserved.
    """

    def __init__(
        self,
        spec: CacheSpec,
        policy: CachePolicy,
        views: int = 2,
        max_bytes: int = MAX_BYTES,
        device: torch.device | str = CPU,
    ) -> None:
        if views < 1:
            raise ValueError(f"session cache: views is {views}, it must be at least 1")
        policy.check_spec(spec)
        self.allocated_bytes = required_bytes(spec, policy)
        needed = required_bytes(spec, policy, views)
        if needed > max_bytes:
            raise MemoryError(
                f"session cache: policy {policy.name} with {policy.max_tokens} tokens needs {needed} bytes, "
                f"{max_bytes} are allowed; keep fewer tokens"
            )
        self.spec, self.policy, self.device = spec, policy, torch.device(device)
        self._views, self._max_bytes = views, max_bytes
        self._rotations = SlotRotations(spec, policy.sizes, self.device) if policy.moves_tokens else None
        self._version = 0
        self._mass: Tensor
        self._shown: Callable[[], CacheView | None] = _nothing  # the newest view, as long as somebody holds it
        self._reported: set[int] = set()  # layers whose queries have been reported on the newest view
        self.reset()

    @torch.no_grad()
    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add T tokens at the end; the policy may turn older ones into summaries or drop them.

        Args:
            keys: [L, Hkv, T, d], BEFORE rotation.
            values: [L, Hkv, T, d].

        Raises:
            ValueError: another shape or device, no token, or numbers that are not finite. The cache is unchanged.
            CacheFullError: see the policy. The cache is unchanged.
        """
        keys = check_tokens("session cache", "keys", keys, self.spec, self.device)
        values = check_tokens("session cache", "values", values, self.spec, self.device)
        added = keys.shape[2]
        if values.shape[2] != added:
            raise ValueError(f"append: {added} keys and {values.shape[2]} values, their number must be equal")
        ledger, sizes = self._ledger, self.policy.sizes
        self.policy.check_room(ledger.tokens, added)
        to_sinks = min(sizes.sinks - ledger.sinks, added)
        grown = replace(
            ledger,
            sinks=ledger.sinks + to_sinks,
            recents=ledger.recents + added - to_sinks,
            full_tokens=ledger.full_tokens + added,
        )
        mass = torch.cat((self._mass, self._mass.new_zeros(added))) if self.policy.reads_queries else self._mass
        leaving = max(0, grown.recents - self.policy.staying(added)) // sizes.chunk
        if leaving:
            self._compress(grown, keys, values, mass, leaving)
        else:
            self._extend(grown, keys, values)
            self._mass = mass
        self._renew()

    def view(self) -> CacheView:
        """Return what attention reads now: the same one as before while that is held, else the keys are turned anew."""
        shown = self._shown()
        if shown is not None:
            return shown
        ledger, sizes = self._ledger, self.policy.sizes
        filled = slice(0, ledger.tokens)
        keys = self._keys[:, :, filled]
        if self._rotations is not None:
            with torch.inference_mode(False):  # a view may outlive the caller's mode
                turned = torch.empty(keys.shape, dtype=keys.dtype, device=self.device)
            with torch.no_grad():
                keys = apply_rotary(keys, *self._rotations.of(ledger), out=turned)
        bias = None
        if sizes.log_count:
            counts = (0.0, *(math.log(sizes.chunk) if length == 1 else 0.0 for length in ledger.lengths))
            bias = torch.zeros(ledger.tokens, device=self.device)
            slots = torch.tensor(ledger.lengths, dtype=torch.int64, device=self.device)
            in_memory = torch.tensor(counts[1:], device=self.device).repeat_interleave(slots)
            bias[ledger.sinks : ledger.sinks + ledger.memory] = in_memory
        version = self._version
        view = CacheView(
            keys,
            self._values[:, :, filled],
            self.next_position,
            bias,
            (lambda layer, queries: self._observe(version, keys, layer, queries))
            if self.policy.reads_queries
            else None,
        )
        self._shown = weakref.ref(view)
        return view

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self._ledger.tokens

    @property
    def next_position(self) -> int:
        """Position of the first token after those that are held."""
        return self._ledger.positions(self.policy.sizes.chunk)

    def reset(self) -> None:
        """Forget everything; views that are held stay as they are."""
        self._ledger = Ledger()
        self._keys, self._values = self._room(), self._room()
        self._state: State = self.policy.start(self.spec, 1, self.device)
        self._mass = torch.zeros(0, dtype=MASS, device=self.device)
        self._renew()

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy is made of; views stay with the original."""
        return self.__dict__ | {"_shown": _nothing}

    @property
    def layers_reported(self) -> int:
        """How many layers have reported their queries on the newest view."""
        return len(self._reported)

    def stats(self) -> CacheStats:
        """Return sizes in tokens and bytes."""
        each, ledger = self.spec.bytes_per_token, self._ledger
        return CacheStats(
            policy=self.policy.name,
            tokens=ledger.tokens,
            bytes=ledger.tokens * each,
            allocated_bytes=self.allocated_bytes,
            full_tokens=ledger.full_tokens,
            full_bytes=ledger.full_tokens * each,
            chunks_kept=ledger.kept,
            chunks_dropped=ledger.dropped,
            chunks_evicted=ledger.evicted,
            scores=ledger.newest_scores,
            flops_saved=(ledger.full_tokens - ledger.tokens) * self.spec.flops_per_pair,
        )

    def kept_chunks(self) -> tuple[tuple[int, float], ...]:
        """Return number and score of every chunk that is held, as a summary or word for word, the oldest first."""
        return tuple(zip(self._ledger.numbers, self._ledger.scores, strict=True))

    def snapshot(self) -> CacheSnapshot:
        """Return a copy that later appends do not touch."""
        filled = slice(0, self._ledger.tokens)
        return CacheSnapshot(
            self.policy,
            self._keys[:, :, filled].clone(),
            self._values[:, :, filled].clone(),
            self._ledger,
            self._mass.clone(),
            tuple(part.clone() for part in self._state),
            self.spec,
        )

    def restore(self, snapshot: CacheSnapshot) -> None:
        """Hold again what `snapshot` holds; views that are held stay as they are.

        Raises:
            ValueError: the snapshot is of another policy, shape or device. The cache is unchanged.
        """
        if snapshot.policy != self.policy:
            raise ValueError(f"restore: the snapshot is of {snapshot.policy}, this cache has {self.policy}")
        if snapshot.spec != self.spec:
            raise ValueError(f"restore: the snapshot is of {snapshot.spec}, this cache has {self.spec}")
        if snapshot.keys.device.type != self.device.type:
            raise ValueError(f"restore: the snapshot is on {snapshot.keys.device}, this cache on {self.device}")
        self._keys, self._values = self._room(), self._room()
        filled = slice(0, snapshot.ledger.tokens)
        self._keys[:, :, filled], self._values[:, :, filled] = snapshot.keys, snapshot.values
        self._ledger, self._mass = snapshot.ledger, snapshot.mass.clone()
        self._state = tuple(part.clone() for part in snapshot.state)
        self._renew()

    def retuned(self, policy: CachePolicy) -> SessionCache:
        """Return a cache with the same contents under a policy of another budget or threshold.

        Summaries beyond the new budget are evicted at once. This cache and its views stay as they are.

        Raises:
            ValueError: the policy is of another kind, or differs in anything else.
            MemoryError: see SessionCache.
        """
        if type(policy) is not type(self.policy) or _lasting(policy) != _lasting(self.policy):
            raise ValueError(f"retuned: {policy} differs from {self.policy} in more than budget and threshold")
        cache = SessionCache(self.spec, policy, self._views, self._max_bytes, self.device)
        saved = self.snapshot()
        policy.check_room(0, saved.ledger.tokens)
        ledger = saved.ledger
        recents = range(ledger.sinks + ledger.memory, ledger.tokens)
        cache._settle(fit(policy, ledger, (), recents, (saved.keys,), (saved.values,), saved.mass, saved.state))
        return cache

    def _renew(self) -> None:
        """Void the newest view for reports: there is a newer one."""
        self._version += 1
        self._shown = _nothing
        self._reported.clear()

    def _room(self) -> Tensor:
        """Return room for the keys or the values of all tokens."""
        shape = (self.spec.layers, self.spec.kv_heads, self.policy.max_tokens, self.spec.head_dim)
        with torch.inference_mode(False):  # it outlives the caller's mode, in which alone it could be written to
            return torch.empty(shape, dtype=self.spec.dtype, device=self.device)

    def _extend(self, grown: Ledger, keys: Tensor, values: Tensor) -> None:
        """Put tokens behind those that are held; no slot that a view reads changes."""
        new = slice(self._ledger.tokens, grown.tokens)
        if self._rotations is None:
            positions = torch.arange(new.start, new.stop, device=self.device)
            keys = rotate(keys, positions, frequencies=self.spec.frequencies)  # each position is needed once
        self._keys[:, :, new] = keys
        self._values[:, :, new] = values
        self._ledger = grown

    def _compress(self, grown: Ledger, keys: Tensor, values: Tensor, mass: Tensor, leaving: int) -> None:
        """Take new tokens and let the `leaving` oldest chunks of the recent ones go."""
        assert self.policy.moves_tokens, f"policy {self.policy.name} drops tokens but says that it moves none"
        held = slice(0, self._ledger.tokens)
        old = self._keys[:, :, held], self._values[:, :, held]
        self._settle(judge(self.policy, grown, (old[0], keys), (old[1], values), mass, self._state, leaving))

    def _settle(self, judged: Judgement) -> None:
        """Hold what a judgement leaves, in tensors of its own."""
        room = self._room(), self._room()
        for into, sources in zip(room, (judged.keys, judged.values), strict=True):
            torch.cat(pieces(sources, judged.places), dim=2, out=into[:, :, : judged.ledger.tokens])
        self._keys, self._values = room
        self._ledger, self._state = judged.ledger, judged.state
        self._mass = pick((judged.mass,), judged.places, dim=0).clone() if self.policy.reads_queries else judged.mass

    @torch.no_grad()
    def _observe(self, version: int, keys: Tensor, layer: int, queries: Tensor) -> None:
        """Let the policy see the queries of a layer, [Hq, Q, d]; see CacheView.observe_queries."""
        spec = self.spec
        if version != self._version:
            raise ValueError("observe_queries: the view is outdated, report queries before the next append")
        check_queries(layer, queries, spec)
        if layer in self._reported:  # of a prefill that was given up: the view is being read once more
            return
        self._reported.add(layer)
        first = self.next_position

        def turned() -> Tensor:
            positions = first + torch.arange(queries.shape[1], device=self.device)
            return rotate(queries, positions, frequencies=spec.frequencies).unsqueeze(0)

        seen = Queries(layer, spec.layers, queries.unsqueeze(0), turned, keys[layer].unsqueeze(0), None)
        mass, self._state = self.policy.observe(seen, self._mass.unsqueeze(0), self._state)
        self._mass = mass[0]


def _nothing() -> None:
    """Stand for a view that nobody holds."""


def _lasting(policy: CachePolicy) -> dict[str, object]:
    """Return what a session's policy is made of and must stay as it is."""
    return {each.name: getattr(policy, each.name) for each in fields(policy) if each.name not in LIVE}  # type: ignore[arg-type]
