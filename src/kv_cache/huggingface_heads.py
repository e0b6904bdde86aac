"""A cache for Hugging Face models in which every key head keeps its own tokens word for word. Needs `transformers`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from kv_cache.heads import HeadGate, check_heads, choose
from kv_cache.huggingface_spec import rotation, sliding_window, spec_of
from kv_cache.rotary import apply_rotary
from kv_cache.spec import CacheSpec


class HeadwiseCache(Cache):  # type: ignore[misc]
    """`past_key_values` of which each head holds at most `budget` tokens: sinks, the newest, and what the gate chooses.

    The tokens of a forward see each other and all that is held; then each head lets go of what is beyond its budget.
    Tokens stay at the positions that the model gave them. Rows of a batch may hold different tokens; padding is not
    told from text.

    Args:
        spec: see spec_of.
        gate: trained for this model.
        sinks, recent: first and newest tokens that every head keeps.
        budget: most tokens per head.

    Raises:
        ValueError: sizes that do not go together, or a gate of another shape.
    """

    def __init__(self, spec: CacheSpec, gate: HeadGate, sinks: int, recent: int, budget: int) -> None:
        check_heads(sinks, recent, budget)
        made = gate.config
        if (made.layers, made.kv_heads, made.head_dim) != (spec.layers, spec.kv_heads, spec.head_dim):
            raise ValueError(
                f"headwise cache: the gate is for {made.layers} layers of {made.kv_heads} x {made.head_dim} numbers, "
                f"the model has {spec.layers} of {spec.kv_heads} x {spec.head_dim}; load the gate trained for it"
            )
        super().__init__(layers=[_Layer(self, number) for number in range(spec.layers)])
        self.spec, self.gate = spec, gate
        self.sinks, self.recent, self.budget = sinks, recent, budget

    @classmethod
    def of(
        cls, model: PreTrainedModel, gate: HeadGate, sinks: int = 4, recent: int = 192, budget: int = 256
    ) -> HeadwiseCache:
        """Return a cache for `model`.

        Raises:
            ValueError: see spec_of and HeadwiseCache; a model whose layers see a window that is smaller than the past.
        """
        if sliding_window(model) is not None:
            raise ValueError(
                "headwise cache: the model's layers see a sliding window, so far tokens are of no use to it"
            )
        return cls(spec_of(model), gate, sinks, recent, budget)

    @property
    def tokens(self) -> int:
        """Tokens held per head."""
        held: int = self.layers[0].held
        return held

    @property
    def bytes(self) -> int:
        """Bytes of keys and values that are held, positions and scores included."""
        return sum(layer.bytes for layer in self.layers)


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """The heads of one layer."""

    is_sliding = False

    def __init__(self, owner: HeadwiseCache, number: int) -> None:
        super().__init__()
        self._owner, self._number, self._seen = owner, number, 0
        self._held: tuple[Tensor, ...] = ()  # keys (rotated), values [B, Hkv, N, d]; positions, scores [B, Hkv, N]

    @property
    def held(self) -> int:
        """Tokens per head."""
        return self._held[0].shape[2] if self._held else 0

    @property
    def bytes(self) -> int:
        """Bytes that they take."""
        return sum(part.numel() * part.itemsize for part in self._held)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is reserved before tokens come."""

    @torch.no_grad()
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return what the layer attends to; keep what its heads choose."""
        owner, here = self._owner, slice(self._number, self._number + 1)
        positions = self._seen + torch.arange(key_states.shape[2], device=key_states.device)
        cos, sin = rotation(owner.spec, positions)
        plain = torch.cat((apply_rotary(key_states, cos, -sin), value_states), dim=-1)
        scores = owner.gate(plain.unsqueeze(1), here)[:, 0]
        new = (key_states, value_states, positions.expand_as(scores), scores)
        shown = tuple(torch.cat(pair, dim=2) for pair in zip(self._held, new, strict=True)) if self._held else new
        self._seen += key_states.shape[2]
        self._held = shown
        if shown[0].shape[2] > owner.budget:
            age = self._seen - shown[2]
            utilities = shown[3] + owner.gate.of_age(age.unsqueeze(1), here)[:, 0]
            stay = choose(utilities, shown[2], self._seen - 1, owner.sinks, owner.recent, owner.budget)
            wide = stay.unsqueeze(-1).expand(-1, -1, -1, key_states.shape[-1])
            self._held = tuple(part.gather(2, wide if part.dim() == 4 else stay) for part in shown)
        self.is_initialized = True
        return shown[0], shown[1]

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Return the number of keys, and the position from which they would be numbered without gaps."""
        count = query_length if isinstance(query_length, int) else len(query_length)
        return self.held + count, self._seen - self.held

    def get_seq_length(self) -> int:
        """Return the position of the next token."""
        return self._seen

    def get_max_length(self) -> int:
        """Return that there is no end."""
        return -1

    get_max_cache_shape = get_max_length  # its name in older versions

    def reset(self) -> None:
        """Begin a new session."""
        self._held, self._seen, self.is_initialized = (), 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with the rows `beam_idx`; a row may be taken twice."""
        self._held = tuple(part.index_select(0, beam_idx.to(part.device)) for part in self._held)
