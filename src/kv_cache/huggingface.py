"""A cache for Hugging Face models, for `generate` and for a forward with `past_key_values`. Needs `transformers`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from kv_cache.cache import MAX_BYTES, SessionCache
from kv_cache.policies.base import CachePolicy
from kv_cache.rotary import turn
from kv_cache.spec import CacheSpec
from kv_cache.view import CacheStats


def spec_of(model: PreTrainedModel) -> CacheSpec:
    """Return the shape of a model's cache, with the model's own rotary frequencies.

    Raises:
        ValueError: the text model has no rotary positions, or different ones in different layers.
    """
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    found = {
        tuple(module.inv_freq.double().tolist())
        for name, module in model.named_modules()
        if "vision" not in name and isinstance(getattr(module, "inv_freq", None), Tensor)
    }
    if len(found) != 1:
        raise ValueError(
            f"spec of {type(model).__name__}: {len(found)} different sets of rotary frequencies are found, expected 1 "
            "for all layers; a model that mixes them, or has none, cannot use this cache"
        )
    return CacheSpec(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype=model.dtype,
        query_heads=heads,
        inverse_frequencies=next(iter(found)),
    )


class CompressedCache(Cache):  # type: ignore[misc]
    """`past_key_values` under a cache policy, with one session per row of the batch.

    Keys come rotated by the model: they are turned back with the model's own frequencies and stored unrotated. What
    the model gets are the tokens held, rotated so that their distances to the new tokens are those of the policy.
    The new tokens of a forward see each other in full; chunks leave when the last layer has run.

    Rows must be of equal length, without padding. Rows that keep different numbers of chunks do not fit into one
    tensor, so a batch of several rows needs a policy whose budget alone decides (gated: threshold 0).

    Args:
        spec: see spec_of.
        policy: see kv_cache.policies.
        endless: False: positions go on counting all tokens, as `generate` wants it. True: they count from what is
            held, so that a forward without position_ids can go on for ever.
        max_bytes: most bytes that a row may reserve.
    """

    def __init__(self, spec: CacheSpec, policy: CachePolicy, endless: bool = False, max_bytes: int = MAX_BYTES) -> None:
        policy.fit(spec)
        super().__init__(layers=[_Layer(self, number) for number in range(spec.layers)])
        self.spec, self.policy, self.endless = spec, policy, endless
        self._max_bytes = max_bytes
        self.rows: list[SessionCache] = []
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._shown: tuple[Tensor, Tensor] | None = None  # the view that all layers of a forward read

    @classmethod
    def of(cls, model: PreTrainedModel, policy: CachePolicy, endless: bool = False) -> CompressedCache:
        """Return a cache for `model`."""
        return cls(spec_of(model), policy, endless)

    @property
    def tokens(self) -> int:
        """Tokens held per row."""
        return self.rows[0].stats().tokens if self.rows else 0

    @property
    def position(self) -> int:
        """Position of the next token."""
        if not self.rows:
            return 0
        return self.rows[0].view().next_position if self.endless else self.rows[0].stats().full_tokens

    def stats(self) -> tuple[CacheStats, ...]:
        """Return the statistics of every row."""
        return tuple(row.stats() for row in self.rows)

    def observe_queries(self, layer: int, queries: Tensor) -> None:
        """Report the queries [B, Hq, Q, d], before rotation, of a forward that comes next (see CacheView)."""
        for row, own in zip(self.rows, queries, strict=True):
            observe = row.view().observe_queries
            if observe is not None:
                observe(layer, own)

    def reset(self) -> None:
        """Begin new sessions."""
        self.rows, self._pending, self._shown = [], [], None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with the rows `beam_idx`; a row may be taken twice."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows; a row may be taken twice."""
        saved = [row.snapshot() for row in self.rows]
        rows = []
        for index in indices.tolist():
            row = self._new_row(self.rows[index].device)
            row.restore(saved[index])
            rows.append(row)
        self.rows, self._shown = rows, None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Go on with every row `repeats` times."""
        self.batch_select_indices(torch.arange(len(self.rows)).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: a chunk that has become a summary cannot be taken back.

        Raises:
            ValueError: always.
        """
        raise ValueError("compressed cache: tokens cannot be taken back, assisted generation needs a full cache")

    def take(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a layer attends to, [B, Hkv, N + T, d], from its new keys (rotated) and values."""
        if layer == 0:
            self._begin(keys)
        if layer != len(self._pending) or self._shown is None:
            raise ValueError(
                f"compressed cache: layer {layer} came after {len(self._pending)} layers, expected in order"
            )
        shown_keys, shown_values = self._shown
        self._pending.append((keys, values))
        seen = torch.cat((shown_keys[:, layer], keys), dim=2), torch.cat((shown_values[:, layer], values), dim=2)
        if layer == self.spec.layers - 1:
            self._commit()
        return seen

    def _begin(self, keys: Tensor) -> None:
        batch, policy = keys.shape[0], self.policy
        if batch > 1 and policy.by_content and 0.0 < policy.least_score < math.inf:
            raise ValueError(
                f"compressed cache: {batch} rows may keep different numbers of chunks under policy {policy.name}; "
                "set its threshold to 0, so that the budget alone decides, or run one row at a time"
            )
        if not self.rows:
            self.rows = [self._new_row(keys.device) for _ in range(batch)]
        if batch != len(self.rows):
            raise ValueError(f"compressed cache: a batch of {batch}, expected {len(self.rows)}; reset() begins anew")
        views = [row.view() for row in self.rows]
        held = torch.stack([view.keys for view in views])
        offset = self.position - views[0].next_position
        if offset:
            held = turn(held, *self._rotation(torch.tensor([offset], device=keys.device)))
        self._shown = held, torch.stack([view.values for view in views])
        self._pending = []

    @torch.no_grad()
    def _commit(self) -> None:
        keys = torch.stack([each for each, _ in self._pending], dim=1)
        values = torch.stack([each for _, each in self._pending], dim=1)
        positions = self.position + torch.arange(keys.shape[3], device=keys.device)
        cos, sin = self._rotation(positions)
        unrotated = turn(keys, cos, -sin)
        for row, own_keys, own_values in zip(self.rows, unrotated, values, strict=True):
            row.append(own_keys, own_values)
        self._pending, self._shown = [], None

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine as the models compute them, in float32, so that turning back is exact."""
        used = torch.tensor(self.spec.frequencies, dtype=torch.float32, device=positions.device)
        turned = positions.float().unsqueeze(-1) * used
        return turned.cos(), turned.sin()

    def _new_row(self, device: torch.device) -> SessionCache:
        # one view is enough: a forward has read it before the next append
        return SessionCache(self.spec, self.policy, views=1, max_bytes=self._max_bytes, device=device)


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """What a model's layer talks to; everything is done by the cache, which decides once for all layers."""

    is_sliding = False

    def __init__(self, owner: CompressedCache, number: int) -> None:
        super().__init__()
        self._owner, self._number = owner, number

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Rows are made when the first layer runs."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return what the layer attends to."""
        return self._owner.take(self._number, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys, and the position from which they would be numbered without gaps."""
        held = self._owner.tokens
        return held + query_length, self._owner.position - held

    def get_seq_length(self) -> int:
        """Return the position of the next token."""
        return self._owner.position

    def get_max_length(self) -> int:
        """Return that there is no end."""
        return -1
