"""The compact network: vision, words and proprioception into a transformer over the history, and an action expert.

An observation becomes a block of tokens; a block sees itself and the blocks before it. The expert is one token
that carries the state of the action flow and reads the keys and values of every layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.layers import Layer, Projection, attend, rotated
from streaming_vla.policy.compact.vision import CameraEncoder

WAVELENGTHS = (64.0, 16.0, 4.0)  # of the sine features of the flow's state, in action units
TIME_FREQUENCIES = 6


Member = TypeVar("Member", bound=nn.Module)


class Stack(nn.ModuleList, Generic[Member]):
    """A ModuleList that knows the type of its members."""

    def __init__(self, members: list[Member]) -> None:
        super().__init__(members)

    def __iter__(self) -> Iterator[Member]:
        return cast(Iterator[Member], super().__iter__())


class CompactModel(nn.Module):
    """The network. Training runs whole sequences (`encode`, `trunk`, `expert`); inference runs it in slices."""

    state_mean: Tensor
    state_scale: Tensor
    absolute: Tensor
    wavelengths: Tensor
    frequencies: Tensor

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cameras = Stack(
            [CameraEncoder(config.channels, config.keypoints, config.patch_grid, width) for _ in config.cameras]
        )
        self.word = nn.Embedding(len(config.words), width)
        self.word_place = nn.Parameter(torch.randn(config.maximum_words, width) * 0.02)
        self.word_query = nn.Parameter(torch.randn(config.language_tokens, width) * 0.02)
        self.word_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.state = nn.Sequential(nn.Linear(config.state_size, width), nn.SiLU(), nn.Linear(width, width))
        # nobody reads the tokens behind the last layer, only its keys and values
        self.trunk_layers = Stack([*(Layer(config) for _ in range(config.layers - 1)), Projection(config)])
        self.expert_layers = Stack([Layer(config) for _ in range(config.layers)])
        self.register_buffer("state_mean", torch.zeros(config.state_size))
        self.register_buffer("state_scale", torch.ones(config.state_size))
        absolute = torch.tensor(config.action_absolute)
        self.register_buffer("absolute", absolute, persistent=False)
        self.register_buffer("wavelengths", torch.tensor(WAVELENGTHS), persistent=False)
        self.register_buffer("frequencies", 2.0 ** torch.arange(TIME_FREQUENCIES) * math.pi, persistent=False)
        absolute_count = sum(config.action_absolute)
        summed_count = len(config.action_absolute) - absolute_count
        features = summed_count * (1 + 2 * len(WAVELENGTHS)) + absolute_count + 2 * TIME_FREQUENCIES
        self.flow_token = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(config.action_names)))

    def words(self, words: Tensor) -> Tensor:
        """Pool words [B, maximum_words] (-1: none) into [B, language_tokens, width] by attention."""
        embedded = self.word(words.clamp(min=0)) + self.word_place
        scores = (self.word_query @ embedded.transpose(1, 2)) / math.sqrt(self.config.width)
        # an empty instruction has no word to look at: it attends to the padding
        hidden = (words < 0) & (words >= 0).any(dim=1, keepdim=True)
        weights = scores.masked_fill(hidden.unsqueeze(1), -1e4).softmax(dim=-1)
        pooled: Tensor = weights @ embedded
        out: Tensor = pooled + self.word_mlp(pooled) + self.word_query
        return out

    def own_state(self, state: Tensor) -> Tensor:
        """Return the token of the robot's state, [B, state_size] in its units -> [B, 1, width]."""
        scaled: Tensor = self.state((state - self.state_mean) / self.state_scale)
        return scaled.unsqueeze(1)

    def encode(self, pictures: Tensor, state: Tensor, words: Tensor) -> Tensor:
        """Return the tokens of observations, [B, tokens_per_observation, width].

        Args:
            pictures: [B, cameras, 3, S, S] in [-1, 1].
            state: [B, state_size], in the robot's units.
            words: [B, maximum_words].
        """
        seen = [encoder(pictures[:, index]) for index, encoder in enumerate(self.cameras)]
        return torch.cat((*seen, self.words(words), self.own_state(state)), dim=1)

    def trunk(self, tokens: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Run whole sequences; return the rotated keys and the values of every layer, [B, kv_heads, T, d].

        Args:
            tokens: [B, T, width], blocks of observations one after the other.
            mask: [B, 1, T, T], True where a token may look.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        cache = []
        for layer in self.trunk_layers:
            queries, keys, values = layer.heads_of(tokens)
            keys = rotated(keys, positions, self.config.rope_base)
            queries = rotated(queries, positions, self.config.rope_base)
            cache.append((keys, values))
            if isinstance(layer, Layer):
                tokens = layer.finish(tokens, attend(queries, keys, values, mask))
        return cache

    def flow_features(self, position: Tensor, time: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the features of the flow's state, [..., A] and [...] -> [..., F].

        Where `known` [...] is False the position is hidden: its features are zero, which no position has (sine and
        cosine are never both zero).
        """
        summed = position[..., ~self.absolute]
        angles = (summed.unsqueeze(-1) * (2 * math.pi / self.wavelengths)).flatten(-2)
        times = time.unsqueeze(-1) * self.frequencies
        own = position[..., self.absolute]
        features = torch.cat((summed / 16.0, angles.sin(), angles.cos(), own), dim=-1)
        if known is not None:
            features = features * known.unsqueeze(-1)
        return torch.cat((features, times.sin(), times.cos()), dim=-1)

    def expert(
        self,
        position: Tensor,
        time: Tensor,
        cache: list[tuple[Tensor, Tensor]],
        places: Tensor,
        mask: Tensor | None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Read the cache with flow tokens that do not see each other.

        Args:
            position: [B, Q, A], time: [B, Q] in [0, 1].
            cache: per layer rotated keys and values, [B, kv_heads, N, d].
            places: [Q], position of each flow token in the sequence.
            mask: [B, 1, Q, N], True where a flow token may look at the cache; None: everywhere.
            known: [B, Q], False where the position is hidden (training only); None: nowhere.

        Returns:
            [B, Q, A]: for summed dimensions the flow's velocity in action units per step, for absolute
            ones the value itself.
        """
        tokens = self.flow_token(self.flow_features(position, time, known))
        batch, count, _ = tokens.shape
        if count > 1:  # each flow token sees the cache and itself
            own = torch.eye(count, dtype=torch.bool, device=tokens.device).expand(batch, 1, count, count)
            if mask is None:
                mask = own.new_ones(batch, 1, count, cache[0][0].shape[2])
            mask = torch.cat((mask, own), dim=-1)
        for layer, (cached_keys, cached_values) in zip(self.expert_layers, cache, strict=True):
            queries, keys, values = layer.heads_of(tokens)
            queries = rotated(queries, places, self.config.rope_base)
            keys = rotated(keys, places, self.config.rope_base)
            attended = attend(
                queries, torch.cat((cached_keys, keys), dim=2), torch.cat((cached_values, values), dim=2), mask
            )
            tokens = layer.finish(tokens, attended)
        answer: Tensor = self.head(tokens)
        return answer
