"""The cache of one session: pre-allocated keys and values, and views that stay readable while it grows."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import torch
from torch import Tensor

from kv_cache.checks import check_queries, check_tokens
from kv_cache.chunks import Queries, State
from kv_cache.compress import around, evict, judge
from kv_cache.policies.base import CachePolicy
from kv_cache.rotary import apply_rotary, rotate
from kv_cache.slots import SlotRotations, pick
from kv_cache.spec import CacheSpec
from kv_cache.view import CacheSnapshot, CacheStats, CacheView, Ledger

__all__ = ["MAX_BYTES", "CacheSnapshot", "CacheStats", "CacheView", "SessionCache", "required_bytes"]
MAX_BYTES = 2 * 1024**3
MASS = torch.float32  # of the attention that a token has received
LIVE = ("budget", "threshold")  # of a policy, what may change while a session goes on
CPU = torch.device("cpu")


def required_bytes(spec: CacheSpec, policy: CachePolicy, views: int = 2) -> int:
    """Return the bytes that a SessionCache reserves."""
    half = policy.max_tokens * spec.bytes_per_token // 2  # keys alone, or values alone
    if not policy.moves_tokens:
        return 2 * half
    mass = policy.max_tokens * MASS.itemsize if policy.reads_queries else 0
    own = policy.state_bytes(spec, 1) + mass
    return half * (1 + 2 * views) + SlotRotations.most_bytes(spec, policy.sizes) + own


class SessionCache:
    """Keys and values of one session under a policy. Not thread safe.

    Every slot is [sinks | summaries | recent tokens], without holes. A policy that moves tokens rewrites rotated keys,
    so these live in `views` banks that take turns; the keys before rotation are kept once, so that a token is turned
    from them and moving it any number of times adds no error. A policy that only adds needs one bank: what an older
    view reads is never written again.

    Args:
        spec: shape of a token.
        policy: which tokens live on.
        views: how many of the newest views are readable at the same time; 2 lets a flow step of the old
            context run after the next observation has been appended.
        max_bytes: most bytes that may be reserved.
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
        self.allocated_bytes = required_bytes(spec, policy, views)
        if self.allocated_bytes > max_bytes:
            raise MemoryError(
                f"session cache: policy {policy.name} with {policy.max_tokens} tokens needs {self.allocated_bytes} "
                f"bytes, {max_bytes} are allowed; keep fewer tokens"
            )
        self.spec, self.policy, self.device = spec, policy, torch.device(device)
        self._views, self._max_bytes = views, max_bytes
        shape = (spec.layers, spec.kv_heads, policy.max_tokens, spec.head_dim)
        banks = views if policy.moves_tokens else 1
        with torch.inference_mode(False):  # they outlive the caller's mode, in which alone they could be written to
            self._rotated = [torch.zeros(shape, dtype=spec.dtype, device=device) for _ in range(banks)]
            self._values = [torch.zeros(shape, dtype=spec.dtype, device=device) for _ in range(banks)]
            self._unrotated = torch.zeros(shape, dtype=spec.dtype, device=device) if policy.moves_tokens else None
        self._rotations = SlotRotations(spec, policy.sizes, self.device) if policy.moves_tokens else None
        self._bank = self._version = 0
        self._reported: set[int] = set()  # layers whose queries have been reported on the newest view
        self._ledger = Ledger()
        self._state: State = policy.start(spec, 1, self.device)
        self._mass = torch.zeros(0, dtype=MASS, device=self.device)

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
        """Return what attention reads now; costs nothing, the work was done by the append."""
        ledger, sizes = self._ledger, self.policy.sizes
        filled = slice(0, ledger.tokens)
        bias = None
        if sizes.log_count:
            bias = torch.zeros(ledger.tokens, device=self.device)
            bias[ledger.sinks : ledger.sinks + len(ledger.numbers)] = math.log(sizes.chunk)
        version = self._version
        return CacheView(
            self._rotated[self._bank][:, :, filled],
            self._values[self._bank][:, :, filled],
            ledger.tokens + len(ledger.numbers) * (sizes.chunk - 1),
            bias,
            (lambda layer, queries: self._observe(version, layer, queries)) if self.policy.reads_queries else None,
        )

    def reset(self) -> None:
        """Forget everything; memory stays reserved, older views are void."""
        self._ledger = Ledger()
        self._state = self.policy.start(self.spec, 1, self.device)
        self._mass = torch.zeros(0, dtype=MASS, device=self.device)
        self._renew()

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
        """Return number and score of every chunk whose summary is held, the oldest first."""
        return tuple(zip(self._ledger.numbers, self._ledger.scores, strict=True))

    def snapshot(self) -> CacheSnapshot:
        """Return a copy that later appends do not touch."""
        filled = slice(0, self._ledger.tokens)
        keys = self._rotated[self._bank] if self._unrotated is None else self._unrotated
        return CacheSnapshot(
            self.policy,
            keys[:, :, filled].clone(),
            self._values[self._bank][:, :, filled].clone(),
            self._ledger,
            self._mass.clone(),
            tuple(part.clone() for part in self._state),
            self.spec,
        )

    def restore(self, snapshot: CacheSnapshot) -> None:
        """Hold again what `snapshot` holds; older views are void.

        Raises:
            ValueError: the snapshot is of another policy, shape or device. The cache is unchanged.
        """
        if snapshot.policy != self.policy:
            raise ValueError(f"restore: the snapshot is of {snapshot.policy}, this cache has {self.policy}")
        if snapshot.spec != self.spec:
            raise ValueError(f"restore: the snapshot is of {snapshot.spec}, this cache has {self.spec}")
        if snapshot.keys.device.type != self.device.type:
            raise ValueError(f"restore: the snapshot is on {snapshot.keys.device}, this cache on {self.device}")
        self._put(snapshot.ledger, snapshot.keys, snapshot.values, unchanged=0)
        self._mass, self._state = snapshot.mass.clone(), tuple(part.clone() for part in snapshot.state)
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
        begin, end = saved.ledger.sinks, saved.ledger.sinks + len(saved.ledger.numbers)
        ledger, stay = evict(policy, saved.ledger, saved.mass[begin:end])
        places = around([begin + place for place in stay], begin, range(end, saved.ledger.tokens))
        cache._put(ledger, pick((saved.keys,), places), pick((saved.values,), places), unchanged=0)
        cache._mass = pick((saved.mass,), places, dim=0) if policy.reads_queries else saved.mass
        cache._state = saved.state
        return cache

    def _renew(self) -> None:
        """Void the newest view for reports: there is a newer one."""
        self._version += 1
        self._reported.clear()

    def _extend(self, grown: Ledger, keys: Tensor, values: Tensor) -> None:
        """Put tokens behind those that are held; no slot that an older view reads changes."""
        start, stop = self._ledger.tokens, grown.tokens
        if self._unrotated is not None:
            self._unrotated[:, :, start:stop] = keys
        self._rotated[self._bank][:, :, start:stop] = self._turned(keys, grown, start)
        self._values[self._bank][:, :, start:stop] = values
        self._ledger = grown

    def _compress(self, grown: Ledger, keys: Tensor, values: Tensor, mass: Tensor, leaving: int) -> None:
        """Take new tokens and let the `leaving` oldest chunks of the recent ones go."""
        assert self._unrotated is not None, f"policy {self.policy.name} drops tokens but says that it moves none"
        held = slice(0, self._ledger.tokens)
        old_keys, old_values = self._unrotated[:, :, held], self._values[self._bank][:, :, held]
        judged = judge(self.policy, grown, (old_keys, keys), (old_values, values), mass, self._state, leaving)
        places = judged.places
        fixed = grown.sinks + len(grown.numbers)
        unmoved = places[0].stop if places and places[0].start == 0 else 0
        self._put(
            judged.ledger,
            pick((old_keys, keys, judged.keys), places),
            pick((old_values, values, judged.values), places),
            unchanged=min(unmoved, fixed, held.stop),
        )
        self._state = judged.state
        if self.policy.reads_queries:
            self._mass = pick((mass, judged.mass), places, dim=0)

    def _put(self, ledger: Ledger, keys: Tensor, values: Tensor, unchanged: int) -> None:
        """Hold nothing but these tokens; the rotated keys of the first `unchanged` slots are those of the last bank."""
        filled = slice(0, ledger.tokens)
        before, self._bank = self._bank, (self._bank + 1) % len(self._rotated)
        rotated = self._rotated[self._bank]
        if self._unrotated is None:  # keys come rotated
            rotated[:, :, filled] = keys
        else:
            self._unrotated[:, :, filled] = keys
            if before != self._bank:
                rotated[:, :, :unchanged] = self._rotated[before][:, :, :unchanged]
            rotated[:, :, unchanged : filled.stop] = self._turned(keys[:, :, unchanged:], ledger, unchanged)
        self._values[self._bank][:, :, filled] = values
        self._ledger = ledger

    def _turned(self, keys: Tensor, ledger: Ledger, start: int) -> Tensor:
        """Rotate keys that fill the slots from `start` to the last one."""
        if self._rotations is not None:
            return apply_rotary(keys, *self._rotations.of(ledger, start))
        positions = torch.arange(start, ledger.tokens, device=self.device)  # each is needed once
        return rotate(keys, positions, frequencies=self.spec.frequencies)

    @torch.no_grad()
    def _observe(self, version: int, layer: int, queries: Tensor) -> None:
        """Let the policy see the queries of a layer, [Hq, Q, d]; see CacheView.observe_queries."""
        spec = self.spec
        if version != self._version:
            raise ValueError("observe_queries: the view is outdated, report queries before the next append")
        check_queries(layer, queries, spec)
        if layer in self._reported:  # of a prefill that was given up: the view is being read once more
            return
        self._reported.add(layer)
        view = self.view()
        positions = view.next_position + torch.arange(queries.shape[1], device=self.device)
        seen = Queries(
            layer,
            spec.layers,
            queries.unsqueeze(0),
            rotate(queries, positions, frequencies=spec.frequencies).unsqueeze(0),
            view.keys[layer].unsqueeze(0),
            torch.ones(1, view.tokens, dtype=torch.bool, device=self.device),
        )
        mass, self._state = self.policy.observe(seen, self._mass.unsqueeze(0), self._state)
        self._mass = mass[0]


def _lasting(policy: CachePolicy) -> dict[str, object]:
    """Return what a session's policy is made of and must stay as it is."""
    return {each.name: getattr(policy, each.name) for each in fields(policy) if each.name not in LIVE}  # type: ignore[arg-type]
