"""The recurrent gate: reads one chunk of keys after the other and says how useful each is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn

from kv_cache.chunks import State
from kv_cache.spec import CacheSpec
from kv_cache.summaries import SUMMARIES, make_summary

CELLS = ("gru", "lstm")
OPEN_LOGIT = 1.0  # the gate starts open: hard samples cannot recover a cue that is never kept


@dataclass(frozen=True)
class GateConfig:
    """Shape of a gate and of the cache that it was made for.

    Args:
        layers, kv_heads, head_dim: of the cache.
        width: features of a token; a chunk has twice as many, their mean and their largest.
        hidden: size of the recurrent state.
        cell: gru or lstm.
        summary: mean, attention or mlp (see summaries.py).
        layer: whose keys the gate reads. Those of the first say which token it is, deeper ones what it is about.

    Raises:
        ValueError: a size is not positive, or an unknown cell or summary.
    """

    layers: int
    kv_heads: int
    head_dim: int
    width: int = 64
    hidden: int = 64
    cell: str = "gru"
    summary: str = "mean"
    layer: int = 0

    def __post_init__(self) -> None:
        for field in ("layers", "kv_heads", "head_dim", "width", "hidden"):
            if getattr(self, field) < 1:
                raise ValueError(f"gate: {field} is {getattr(self, field)}, it must be at least 1")
        for field, choices in (("cell", CELLS), ("summary", SUMMARIES)):
            if getattr(self, field) not in choices:
                raise ValueError(f"gate: {field} is '{getattr(self, field)}', choose one of {', '.join(choices)}")
        if not 0 <= self.layer < self.layers:
            raise ValueError(f"gate: layer is {self.layer}, the model's are 0 to {self.layers - 1}")

    @classmethod
    def of(cls, spec: CacheSpec, **changes: int | str) -> GateConfig:
        """Return the configuration for caches of `spec`."""
        return cls(spec.layers, spec.kv_heads, spec.head_dim, **changes)  # type: ignore[arg-type]

    def to_json(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GateConfig:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not JSON, or fields that this version does not know or misses.
        """
        given = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(given, dict) or set(given) | {"layer"} != known:  # older files do not name the layer
            raise ValueError(f"the gate's fields are {given if not isinstance(given, dict) else sorted(given)}")
        return cls(**given)


class Gate(nn.Module):
    """Per token LayerNorm, linear, GELU; per chunk [mean ; largest], LayerNorm; a recurrent cell over them; one logit.

    It sees the keys of one layer before rotation: what a token is, not where it is. One score serves the whole
    model. `summary` makes the token that stands for a kept chunk.
    """

    def __init__(self, config: GateConfig) -> None:
        super().__init__()
        self.config = config
        features = config.kv_heads * config.head_dim
        self.token = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, config.width), nn.GELU())
        cell = nn.GRUCell if config.cell == "gru" else nn.LSTMCell
        # unbounded features drive the cell into saturation, where it judges all chunks alike and learns no more
        self.chunk = nn.LayerNorm(2 * config.width)
        self.cell = cell(2 * config.width, config.hidden)
        self.head = nn.Linear(config.hidden, 1)
        nn.init.constant_(self.head.bias, OPEN_LOGIT)
        self.summary = make_summary(config.summary, config.layers, config.kv_heads, config.head_dim)

    def start(self, batch: int, device: torch.device | None = None) -> State:
        """Return the state of `batch` sessions that begin: one tensor [B, hidden] for gru, two for lstm."""
        count = 1 if self.config.cell == "gru" else 2
        kind = self.head.weight.dtype
        return tuple(torch.zeros(batch, self.config.hidden, dtype=kind, device=device) for _ in range(count))

    def forward(self, keys: Tensor, state: State, count: Tensor | None = None) -> tuple[Tensor, State]:
        """Judge n chunks that follow each other.

        Args:
            keys: [B, Hkv, n, C, d], of the configuration's layer, before rotation.
            state: after the chunks before.
            count: [B], how many of the chunks are real, the first ones; None: all.

        Returns:
            Logits [B, n] (a score is their sigmoid) and the state after the real chunks.
        """
        batch, heads, chunks, length, size = keys.shape
        weight = self.head.weight
        tokens = keys.permute(0, 2, 3, 1, 4).reshape(batch, chunks, length, heads * size).to(weight.dtype)
        seen: Tensor = self.token(tokens)
        pooled = self.chunk(torch.cat((seen.mean(dim=2), seen.amax(dim=2)), dim=-1))
        outputs = []
        for number in range(chunks):  # one chunk after the other, as the cell is recurrent
            after = self.cell(pooled[:, number], state[0] if len(state) == 1 else state)
            newer = (after,) if len(state) == 1 else after
            if count is not None:
                real = (count > number).unsqueeze(1)
                newer = tuple(torch.where(real, new, old) for new, old in zip(newer, state, strict=True))
            state = newer
            outputs.append(state[0])
        logits: Tensor = self.head(torch.stack(outputs, dim=1)).squeeze(-1)
        return logits, state
