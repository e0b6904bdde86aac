"""The two action experts: one token of action flow, or a whole chunk to denoise; both read the trunk's keys and values.

They have layers of the same form and number, so that what is compared is the way of generating, not the size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from kv_cache.rotary import apply_rotary
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.layers import Layer, attend, turning

WAVELENGTHS = (64.0, 16.0, 4.0)  # of the sine features of the flow's state, in action units
TIME_FREQUENCIES = 6

LayerCache = list[tuple[Tensor, Tensor]]  # per layer rotated keys and values, [B, kv_heads, N, d]
Member = TypeVar("Member", bound=nn.Module)


class Stack(nn.ModuleList, Generic[Member]):
    """A ModuleList that knows the type of its members."""

    def __init__(self, members: list[Member]) -> None:
        super().__init__(members)

    def __iter__(self) -> Iterator[Member]:
        return cast(Iterator[Member], super().__iter__())


class Expert(nn.Module):
    """Layers that read a cache, and the head that turns their tokens into numbers of an action."""

    frequencies: Tensor

    def __init__(self, config: CompactConfig, features: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = Stack([Layer(config) for _ in range(config.layers)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(config.action_names)))
        self.register_buffer("frequencies", 2.0 ** torch.arange(TIME_FREQUENCIES) * math.pi, persistent=False)

    def time_features(self, time: Tensor) -> Tensor:
        """Return sines and cosines of `time` [...] in [0, 1], [..., 2 TIME_FREQUENCIES]."""
        times = time.unsqueeze(-1) * self.frequencies
        return torch.cat((times.sin(), times.cos()), dim=-1)

    def read(
        self, tokens: Tensor, cache: LayerCache, places: Tensor, mask: Tensor | None, own: Tensor | None
    ) -> Tensor:
        """Run tokens [B, Q, width] through the layers and the head, [B, Q, A].

        Args:
            places: [Q], position of each token in the sequence.
            mask: [B, 1, Q, N], True where a token may look at the cache; None: everywhere.
            own: [Q, Q], True where tokens may look at each other; None: everywhere.
        """
        batch, count, _ = tokens.shape
        if mask is not None or own is not None:
            held = cache[0][0].shape[2]
            if mask is None:
                mask = tokens.new_ones((batch, 1, count, held), dtype=torch.bool)
            if own is None:
                own = mask.new_ones((count, count))
            mask = torch.cat((mask, own.expand(batch, 1, count, count)), dim=-1)
        cos, sin = turning(places, self.config)  # once: in a pass of one token it would cost as much as a layer
        for layer, (cached_keys, cached_values) in zip(self.layers, cache, strict=True):
            queries, keys, values = layer.heads_of(tokens)
            queries, keys = apply_rotary(queries, cos, sin), apply_rotary(keys, cos, sin)
            keys, values = torch.cat((cached_keys, keys), dim=2), torch.cat((cached_values, values), dim=2)
            tokens = layer.finish(tokens, attend(queries, keys, values, mask))
        answer: Tensor = self.head(tokens)
        return answer


class FlowExpert(Expert):
    """One token that carries the state of the action flow and answers with the next action."""

    absolute: Tensor
    wavelengths: Tensor

    def __init__(self, config: CompactConfig) -> None:
        absolute = sum(config.action_absolute)
        summed = len(config.action_absolute) - absolute
        super().__init__(config, summed * (1 + 2 * len(WAVELENGTHS)) + absolute + 2 * TIME_FREQUENCIES)
        self.register_buffer("absolute", torch.tensor(config.action_absolute), persistent=False)
        self.register_buffer("wavelengths", torch.tensor(WAVELENGTHS), persistent=False)

    def features(self, position: Tensor, time: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the features of the flow's state, [..., A] and [...] -> [..., F].

        Where `known` [...] is False the position is hidden: its features are zero, which no position has (sine and
        cosine are never both zero).
        """
        summed = position[..., ~self.absolute]
        angles = (summed.unsqueeze(-1) * (2 * math.pi / self.wavelengths)).flatten(-2)
        own = position[..., self.absolute]
        features = torch.cat((summed / 16.0, angles.sin(), angles.cos(), own), dim=-1)
        if known is not None:
            features = features * known.unsqueeze(-1)
        return torch.cat((features, self.time_features(time)), dim=-1)

    def embed(self, position: Tensor, time: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the flow tokens [..., width] of the flow's state (see `features`)."""
        tokens: Tensor = self.token(self.features(position, time, known))
        return tokens

    def forward(
        self,
        position: Tensor,
        time: Tensor,
        cache: LayerCache,
        places: Tensor,
        mask: Tensor | None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Answer flow tokens that do not see each other.

        Args:
            position: [B, Q, A], time: [B, Q] in [0, 1].
            places: [Q], position of each flow token in the sequence.
            mask: [B, 1, Q, N], True where a flow token may look at the cache; None: everywhere.
            known: [B, Q], False where the position is hidden; None: nowhere.

        Returns:
            [B, Q, A]: for summed dimensions the flow's velocity in action units per step, for absolute
            ones the value itself.
        """
        tokens = self.embed(position, time, known)
        count = tokens.shape[1]
        own = None if count == 1 else torch.eye(count, dtype=torch.bool, device=tokens.device)
        return self.read(tokens, cache, places, mask, own)


class ChunkExpert(Expert):
    """One token for each action of the horizon; denoises them together (conditional flow matching from noise)."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config, len(config.action_names) + 2 * TIME_FREQUENCIES)
        self.step = nn.Parameter(torch.randn(config.trained_horizon, config.width) * 0.02)

    def embed(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Return the tokens [B, C, H, width] of chunks [B, C, H, A] at times [B, C]."""
        times = self.time_features(time).unsqueeze(2).expand(-1, -1, noisy.shape[2], -1)
        tokens: Tensor = self.token(torch.cat((noisy, times), dim=-1)) + self.step
        return tokens

    def forward(self, noisy: Tensor, time: Tensor, cache: LayerCache, first: Tensor, mask: Tensor | None) -> Tensor:
        """Return the velocity from noise to actions, [B, C, H, A].

        Args:
            noisy: [B, C, H, A], C chunks that do not see each other; time: [B, C], 0 is noise and 1 are actions.
            first: [C], position of each chunk's first token in the sequence.
            mask: [B, 1, C * H, N], True where an action may look at the cache; None: everywhere.
        """
        batch, chunks, horizon, size = noisy.shape
        tokens = self.embed(noisy, time)
        places = (first.unsqueeze(-1) + torch.arange(horizon, device=first.device)).flatten()
        own = None
        if chunks > 1:
            number = torch.arange(chunks, device=noisy.device).repeat_interleave(horizon)
            own = number.unsqueeze(0) == number.unsqueeze(1)
        return self.read(tokens.flatten(1, 2), cache, places, mask, own).view(batch, chunks, horizon, size)
