"""The compact network: vision, words and proprioception into a transformer over the history, and two action experts.

An observation becomes a block of tokens; a block sees itself and the blocks before it. The experts read the keys and
values of every layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from streaming_vla.policies.compact.config import NO_STATE, CompactConfig
from streaming_vla.policies.compact.experts import ChunkExpert, FlowExpert, LayerCache, Moment, Stack
from streaming_vla.policies.compact.layers import Layer, Projection, attend, rotated
from streaming_vla.policies.compact.vision import CameraEncoder


class CompactModel(nn.Module):
    """The network. Training runs whole sequences (`encode`, `trunk`, `flow`, `chunk`); inference runs it in slices."""

    state_mean: Tensor
    state_scale: Tensor
    pending_scale: Tensor
    absolute: Tensor
    behind: Tensor
    followed: Tensor
    places: Tensor

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
        self.flow = FlowExpert(config)
        self.chunk = ChunkExpert(config)
        self.register_buffer("state_mean", torch.zeros(config.state_size))
        self.register_buffer("state_scale", torch.ones(config.state_size))
        self.register_buffer("pending_scale", torch.ones(len(config.action_names)))
        self.register_buffer("absolute", torch.tensor(config.action_absolute), persistent=False)
        places = torch.tensor(config.state_places)
        self.register_buffer("behind", torch.tensor(config.behind), persistent=False)
        self.register_buffer("followed", places != NO_STATE, persistent=False)  # targets that the state shows
        self.register_buffer("places", places.clamp(min=0), persistent=False)
        self._follows = any(place != NO_STATE for place in config.state_places)

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
        token: Tensor = self.state(self.scaled(state))
        return token.unsqueeze(1)

    def scaled(self, state: Tensor) -> Tensor:
        """Return states [..., state_size] as the network takes them: what is usual is about -1 to 1."""
        return (state - self.state_mean) / self.state_scale

    def moment(self, state: Tensor, pending: Tensor, age: Tensor) -> Moment:
        """Return moments as the experts take them.

        Args:
            state: [..., state_size] of the robot, in its units.
            pending: [..., A], sum of the actions that `state` does not show yet; of a target that the state shows
                (CompactConfig.action_state) the one before. Other absolute dimensions are left out.
            age: [...] of the picture, control periods.
        """
        told = pending - self.stands(state) if self._follows else pending
        return Moment(
            self.scaled(state), (told / self.pending_scale)[..., self.behind], age / self.config.trained_horizon
        )

    def stands(self, state: Tensor) -> Tensor:
        """Return the targets that leave the robot where its state [..., state_size] is, [..., A]; others are 0."""
        return torch.where(self.followed, state[..., self.places], 0.0)

    def told(self, actions: Tensor, before: Tensor) -> Tensor:
        """Return actions [..., A] as the heads tell them: a target that the state shows as a change of the one before.

        Args:
            before: [..., A], see `pending` of `moment`.
        """
        return torch.where(self.followed, (actions - before) / self.pending_scale, actions)

    def meant(self, told: Tensor, before: Tensor) -> Tensor:
        """Return the actions [..., A] of what the flow expert told."""
        return torch.where(self.followed, before + told * self.pending_scale, told) if self._follows else told

    def chunk_told(self, actions: Tensor, before: Tensor) -> Tensor:
        """Return chunks [..., H, A] behind targets `before` [..., A] as the chunk expert tells them."""
        return self.told(actions, torch.cat((before.unsqueeze(-2), actions[..., :-1, :]), dim=-2))

    def chunk_meant(self, told: Tensor, before: Tensor) -> Tensor:
        """Return the chunks of what the chunk expert told: the way round of `chunk_told`."""
        targets = before.unsqueeze(-2) + (told * self.pending_scale).cumsum(dim=-2)
        return torch.where(self.followed, targets, told)

    def encode(self, pictures: Tensor, state: Tensor, words: Tensor) -> Tensor:
        """Return the tokens of observations, [B, tokens_per_observation, width].

        Args:
            pictures: [B, cameras, 3, S, S] in [-1, 1].
            state: [B, state_size], in the robot's units.
            words: [B, maximum_words].
        """
        seen = [encoder(pictures[:, index]) for index, encoder in enumerate(self.cameras)]
        return torch.cat((*seen, self.words(words), self.own_state(state)), dim=1)

    def trunk(self, tokens: Tensor, mask: Tensor | None) -> tuple[LayerCache, Tensor]:
        """Run whole sequences.

        Args:
            tokens: [B, T, width], blocks of observations one after the other.
            mask: [B, 1, T, T], True where a token may look; None: everywhere.

        Returns:
            The rotated keys and the values of every layer, [B, kv_heads, T, d], and the tokens [B, T, width] that the
            last layer projects.
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
        return cache, tokens
