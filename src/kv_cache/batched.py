"""Many sessions of one shape in one tensor: static shapes and a validity mask, for a GPU, torch.compile and evaluation.

Each session holds what a SessionCache of its own would hold, but for rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kv_cache.cache import MAX_BYTES
from kv_cache.checks import check_queries, check_tokens
from kv_cache.chunks import Chunks, Queries, State
from kv_cache.policies.base import CachePolicy
from kv_cache.rotary import angles, apply_rotary
from kv_cache.slots import rotary_table, rotary_table_bytes
from kv_cache.spec import CacheSpec


class BatchState(NamedTuple):
    """Everything that B sessions are; slots are [sinks | summaries | recent tokens | unused], N of them.

    Args:
        keys: [B, L, Hkv, N, d], before rotation.
        values: [B, L, Hkv, N, d].
        sinks, summaries, recents: [B], slots in use.
        numbers, scores: [B, M], of the chunks whose summaries are held.
        mass: [B, N], attention received.
        kept, dropped, evicted, full_tokens: [B], counts since each session began.
        policy: what the policy remembers.
    """

    keys: Tensor
    values: Tensor
    sinks: Tensor
    summaries: Tensor
    recents: Tensor
    numbers: Tensor
    scores: Tensor
    mass: Tensor
    kept: Tensor
    dropped: Tensor
    evicted: Tensor
    full_tokens: Tensor
    policy: State

    @property
    def tokens(self) -> Tensor:
        """Slots in use, [B]."""
        return self.sinks + self.summaries + self.recents


@dataclass(frozen=True)
class BatchView:
    """What attention reads.

    Args:
        keys: [B, L, Hkv, N, d], rotated; values: [B, L, Hkv, N, d].
        held: [B, N], True where there is a token; the others must get no attention.
        next_position: [B].
        bias: [B, N], to be added to attention logits; None unless the policy has log_count.
    """

    keys: Tensor
    values: Tensor
    held: Tensor
    next_position: Tensor
    bias: Tensor | None


class BatchedCache:
    """B sessions that get the same number of tokens with each append, but may begin at different times.

    `update` and `view_of` are pure functions of tensors without data-dependent control flow: compile them with
    torch.compile, or call `append` and `view`, which check what comes in.

    Args:
        spec: shape of a token.
        policy: any that bounds what it holds.
        batch: sessions B.
        device: where the tokens live.
        max_bytes: most bytes that may be reserved: a state and the empty one, and the rotation of every position.

    Raises:
        ValueError: batch is not positive, or the policy is full or was made for another shape.
        MemoryError: the sessions need more than max_bytes; nothing has been reserved.
    """

    def __init__(
        self,
        spec: CacheSpec,
        policy: CachePolicy,
        batch: int,
        device: torch.device | str = "cpu",
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batched cache: batch is {batch}, it must be at least 1")
        if not policy.moves_tokens:
            raise ValueError(f"batched cache: policy {policy.name} has no bound, choose one that drops tokens")
        if policy.exact < math.inf:
            raise ValueError(
                f"batched cache: policy {policy.name} keeps chunks word for word, which needs a SessionCache for each; "
                "leave exact out"
            )
        policy.check_spec(spec)
        self.spec, self.policy, self.device = spec, policy, torch.device(device)
        self._batch = batch
        self.allocated_bytes = self._required_bytes()
        if self.allocated_bytes > max_bytes:
            raise MemoryError(
                f"batched cache: {batch} sessions of policy {policy.name} with {policy.max_tokens} tokens need "
                f"{self.allocated_bytes} bytes, {max_bytes} are allowed; keep fewer tokens or sessions"
            )
        # taken once: a compiled update must not build it
        self._cos, self._sin = rotary_table(spec, policy.sizes, self.device)
        self._frequencies = torch.tensor(spec.frequencies, dtype=torch.float64, device=self.device)
        self._empty = self._start(self.device)
        self.state = self._empty

    @torch.no_grad()
    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add T tokens to every session; no gradient passes, for that there is `update`.

        Args:
            keys: [B, L, Hkv, T, d], BEFORE rotation.
            values: [B, L, Hkv, T, d].

        Raises:
            ValueError: another shape or device, no token, or numbers that are not finite. The cache is unchanged.
        """
        keys = check_tokens("batched cache", "keys", keys, self.spec, self.device, self._batch)
        values = check_tokens("batched cache", "values", values, self.spec, self.device, self._batch)
        if keys.shape != values.shape:
            raise ValueError(f"append: {keys.shape[3]} keys and {values.shape[3]} values, their number must be equal")
        self.state = self.update(self.state, keys, values)

    def view(self) -> BatchView:
        """Return what attention reads now."""
        return self.view_of(self.state)

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget the sessions where `rows` [B] is True; None: all.

        Raises:
            ValueError: `rows` is not [B] of bool.
        """
        if rows is None:
            self.state = self._empty
            return
        if rows.shape != (self._batch,) or rows.dtype != torch.bool:
            raise ValueError(f"reset: rows are {tuple(rows.shape)} of {rows.dtype}, expected ({self._batch},) of bool")

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(rows.view(-1, *(1,) * (new.dim() - 1)), new, old)

        plain = {
            name: chosen(getattr(self._empty, name), getattr(self.state, name))
            for name in BatchState._fields
            if name != "policy"
        }
        policy = tuple(map(chosen, self._empty.policy, self.state.policy))
        self.state = BatchState(**plain, policy=policy)  # type: ignore[arg-type]

    @torch.no_grad()
    def observe_queries(self, layer: int, queries: Tensor) -> None:
        """Report the queries [B, Hq, Q, d], before rotation, with which a layer is about to read the view, once.

        Raises:
            ValueError: an unknown layer, another shape, or numbers that are not finite.
        """
        check_queries(layer, queries, self.spec, self._batch)
        state, view = self.state, self.view()
        positions = view.next_position.unsqueeze(1) + torch.arange(queries.shape[2], device=self.device)
        cos, sin = angles(positions, self._frequencies)

        def turned() -> Tensor:
            return apply_rotary(queries, cos.unsqueeze(1), sin.unsqueeze(1))

        seen = Queries(layer, self.spec.layers, queries, turned, view.keys[:, layer], view.held)
        mass, policy = self.policy.observe(seen, state.mass, state.policy)
        self.state = state._replace(mass=mass, policy=policy)

    def view_of(self, state: BatchState) -> BatchView:
        """Return the view of a state; pure."""
        sizes = self.policy.sizes
        slots = torch.arange(sizes.max_tokens, device=self.device)
        fixed = (state.sinks + state.summaries).unsqueeze(1)
        shift = (state.summaries * (sizes.chunk - 1)).unsqueeze(1)
        line = sizes.sinks + sizes.summaries  # row of position 0
        held = slots < state.tokens.unsqueeze(1)
        rows = torch.where(slots < fixed, slots, line + slots + shift)
        rows = torch.where(held, rows, 0)
        keys = apply_rotary(state.keys, self._cos[rows][:, None, None], self._sin[rows][:, None, None])
        bias = None
        if sizes.log_count:
            is_summary = (slots >= state.sinks.unsqueeze(1)) & (slots < fixed)
            bias = is_summary * math.log(sizes.chunk)
        return BatchView(keys, state.values, held, state.tokens + shift.squeeze(1), bias)

    def update(self, state: BatchState, keys: Tensor, values: Tensor) -> BatchState:
        """Return the state after T more tokens in every session, [B, L, Hkv, T, d]; pure and unchecked."""
        sizes, policy = self.policy.sizes, self.policy
        added = keys.shape[3]
        to_sinks = (sizes.sinks - state.sinks).clamp(max=added)
        sinks, recents = state.sinks + to_sinks, state.recents + added - to_sinks
        staying = policy.staying(added)
        leaving = (recents - staying).clamp(min=0) // sizes.chunk
        most = (sizes.recent + sizes.chunk - 1 + added - staying) // sizes.chunk  # that can leave at once
        order = _Order(state.tokens, sizes.max_tokens, added)
        first = sinks + state.summaries

        def column(number: Tensor) -> Tensor:
            return number.unsqueeze(1)

        pool_keys, pool_values = torch.cat((state.keys, keys), 3), torch.cat((state.values, values), 3)
        mass = torch.cat((state.mass, state.mass.new_zeros(self._batch, added)), dim=1)
        leave_at = order.place(column(first) + torch.arange(most * sizes.chunk, device=self.device))
        number = state.kept + state.dropped
        chunks = Chunks(
            _take(pool_keys, leave_at).unflatten(3, (most, sizes.chunk)),
            _take(pool_values, leave_at).unflatten(3, (most, sizes.chunk)),
            number,
            leaving,
            mass.gather(1, leave_at).unflatten(1, (most, sizes.chunk)).sum(dim=2),
        )
        scores, after = policy.score(chunks, state.policy)
        summary_keys, summary_values = policy.summarise(chunks)
        here = torch.arange(most, device=self.device)
        real = here < column(leaving)
        # where there is no room and no score, nothing is kept to be evicted at once
        kept = real & (scores >= policy.least_score) if sizes.summaries or policy.scored else torch.zeros_like(real)
        # of held and new summaries the best stay; a stable order makes the older one go among equals
        held_at = (column(sinks) + torch.arange(sizes.summaries, device=self.device)).clamp(max=sizes.max_tokens - 1)
        held_mass = state.mass.gather(1, held_at)
        valid = torch.cat((torch.arange(sizes.summaries, device=self.device) < column(state.summaries), kept), dim=1)
        utilities = policy.utilities(torch.cat((state.scores, scores), 1), torch.cat((held_mass, chunks.mass), 1))
        ascending = utilities.masked_fill(~valid, -math.inf).argsort(dim=1, stable=True)
        rank = ascending.argsort(dim=1)
        stays = valid & (rank >= most)
        summaries = stays.sum(dim=1)
        chosen = (~stays).long().argsort(dim=1, stable=True)[:, : sizes.summaries]
        # every slot takes its token from [slots | new tokens | new summaries]
        summary_at = sizes.max_tokens + added + here.expand(self._batch, most)
        chosen_at = torch.cat((held_at, summary_at), dim=1).gather(1, chosen)
        recents = recents - leaving * sizes.chunk
        slots = torch.arange(sizes.max_tokens, device=self.device).expand(self._batch, -1)
        behind = slots - column(sinks + summaries)
        source = order.place(torch.where(slots < column(sinks), slots, column(first + leaving * sizes.chunk) + behind))
        if sizes.summaries:
            nth = (slots - column(sinks)).clamp(min=0, max=sizes.summaries - 1)
            is_summary = (slots >= column(sinks)) & (behind < 0)
            source = torch.where(is_summary, chosen_at.gather(1, nth), source)
        source = torch.where(slots < column(sinks + summaries + recents), source, 0)
        numbers = column(number) + here
        return BatchState(
            _take(torch.cat((pool_keys, summary_keys), 3), source),
            _take(torch.cat((pool_values, summary_values), 3), source),
            sinks,
            summaries,
            recents,
            torch.cat((state.numbers, numbers), 1).gather(1, chosen),
            torch.cat((state.scores, scores), 1).gather(1, chosen),
            torch.cat((mass, chunks.mass), 1).gather(1, source),
            state.kept + kept.sum(dim=1),
            state.dropped + leaving - kept.sum(dim=1),
            state.evicted + valid.sum(dim=1) - summaries,
            state.full_tokens + added,
            after,
        )

    def _required_bytes(self) -> int:
        state = self._start(torch.device("meta"))  # takes no memory
        bytes_of_state = sum(part.numel() * part.itemsize for part in (*state[:-1], *state.policy))
        return 2 * bytes_of_state + rotary_table_bytes(self.spec, self.policy.sizes)

    def _start(self, device: torch.device) -> BatchState:
        spec, sizes, batch = self.spec, self.policy.sizes, self._batch
        shape = (batch, spec.layers, spec.kv_heads, sizes.max_tokens, spec.head_dim)

        def none() -> Tensor:  # one of its own for every count: compiled code would be bound to what they share
            return torch.zeros(batch, dtype=torch.int64, device=device)

        return BatchState(
            keys=torch.zeros(shape, dtype=spec.dtype, device=device),
            values=torch.zeros(shape, dtype=spec.dtype, device=device),
            sinks=none(),
            summaries=none(),
            recents=none(),
            numbers=torch.zeros(batch, sizes.summaries, dtype=torch.int64, device=device),
            scores=torch.zeros(batch, sizes.summaries, device=device),
            mass=torch.zeros(batch, sizes.max_tokens, device=device),
            kept=none(),
            dropped=none(),
            evicted=none(),
            full_tokens=none(),
            policy=self.policy.start(spec, batch, device),
        )


class _Order:
    """From a token's number in a session's [held | new] tokens to its place in [all slots | new tokens]."""

    def __init__(self, held: Tensor, slots: int, added: int) -> None:
        self._held, self._slots, self._added = held.unsqueeze(1), slots, added

    def place(self, number: Tensor) -> Tensor:
        """Return places of numbers, both [B, n]; a number that no token has gives any place."""
        new = (number - self._held).clamp(max=self._added - 1) + self._slots
        return torch.where(number < self._held, number, new).clamp(min=0)


def _take(pool: Tensor, places: Tensor) -> Tensor:
    """Return the tokens at places [B, n] of a pool [B, L, Hkv, P, d] -> [B, L, Hkv, n, d]."""
    _, layers, heads, _, size = pool.shape
    return pool.gather(3, places[:, None, None, :, None].expand(-1, layers, heads, -1, size))
