"""The two action experts: one token for one action, or a whole chunk to denoise; both read the trunk's keys and values.

They have layers of the same form and number, so that what is compared is the way of generating, not the size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from kv_cache.cache import CacheView
from kv_cache.rotary import apply_rotary
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.layers import Layer, attend, turning

STATE_FREQUENCIES = (4.0, 16.0)  # of the sine features of the robot's scaled state
TIME_FREQUENCIES = 6
DOUBT_WIDTH = 64

LayerCache = list[tuple[Tensor, Tensor]]  # per layer rotated keys and values, [B, kv_heads, N, d]


def refuse_bias(view: CacheView) -> None:
    """Raise ValueError for a view whose entries stand for several tokens each: the network's attention adds none."""
    if view.bias is not None:
        raise ValueError("compact policy: its attention does not add log_count, make the cache policy without")


def batch_of(views: Sequence[CacheView]) -> LayerCache:
    """Return views of as many tokens as one batch; ValueError as of refuse_bias."""
    for view in views:
        refuse_bias(view)
    if len(views) == 1:  # nothing to copy
        keys, values = views[0].keys.unsqueeze(1), views[0].values.unsqueeze(1)
    else:
        keys = torch.stack([view.keys for view in views], dim=1)
        values = torch.stack([view.values for view in views], dim=1)
    return list(zip(keys, values, strict=True))


Member = TypeVar("Member", bound=nn.Module)


class Stack(nn.ModuleList, Generic[Member]):
    """A ModuleList that knows the type of its members."""

    def __init__(self, members: list[Member]) -> None:
        super().__init__(members)

    def __iter__(self) -> Iterator[Member]:
        return cast(Iterator[Member], super().__iter__())


class Moment(NamedTuple):
    """What an action is for, in the network's units (see CompactModel.moment): where the robot is, how old the picture.

    state [..., state_size]; pending [..., CompactConfig.behind], what the state does not show yet; age [...].
    """

    state: Tensor
    pending: Tensor
    age: Tensor

    def flatten(self) -> Moment:
        """Return [B, T, D] moments as [B, T * D]."""
        return Moment(*(part.flatten(1, 2) for part in self))


class Expert(nn.Module):
    """Layers that read a cache, and the head that turns their tokens into numbers of an action."""

    frequencies: Tensor
    state_frequencies: Tensor

    def __init__(self, config: CompactConfig, features: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.token = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = Stack([Layer(config) for _ in range(config.layers)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(config.action_names)))
        self.register_buffer("frequencies", 2.0 ** torch.arange(TIME_FREQUENCIES) * math.pi, persistent=False)
        self.register_buffer("state_frequencies", torch.tensor(STATE_FREQUENCIES), persistent=False)

    def time_features(self, time: Tensor) -> Tensor:
        """Return sines and cosines of `time` [...] in [0, 1], [..., 2 TIME_FREQUENCIES]."""
        times = time.unsqueeze(-1) * self.frequencies
        return torch.cat((times.sin(), times.cos()), dim=-1)

    def moment_features(self, moment: Moment) -> Tensor:
        """Return the features of moments [...], [..., moment_features_of(config)]."""
        angles = (moment.state.unsqueeze(-1) * self.state_frequencies).flatten(-2)
        times = self.time_features(moment.age)
        return torch.cat((moment.state, angles.sin(), angles.cos(), moment.pending, times), dim=-1)

    def read(
        self, tokens: Tensor, cache: LayerCache, places: Tensor, mask: Tensor | None, own: Tensor | None
    ) -> Tensor:
        """Run tokens [B, Q, width] through the layers; `head` makes actions [B, Q, A] of them.

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
        return tokens


def moment_features_of(config: CompactConfig) -> int:
    """Return how many features a moment has."""
    return config.state_size * (1 + 2 * len(STATE_FREQUENCIES)) + sum(config.behind) + 2 * TIME_FREQUENCIES


class FlowExpert(Expert):
    """One token that says where the robot is now, and how old the picture is; it answers with the action for now.

    The flow's state is the robot's own (as in Streaming Flow Policy, arXiv 2505.21851): what was executed since the
    picture shows in it, however it came about. What is executed before the action and does not show in the robot's
    newest state yet is told beside it, so that the network learns how the robot lags behind its commands.
    """

    doubts: Tensor

    def __init__(self, config: CompactConfig) -> None:
        features = moment_features_of(config)
        super().__init__(config, features)
        told = config.width + features
        self.doubt = nn.Sequential(
            nn.LayerNorm(told), nn.Linear(told, DOUBT_WIDTH), nn.SiLU(), nn.Linear(DOUBT_WIDTH, 1), nn.Softplus()
        )
        self.register_buffer("doubts", torch.zeros(()))  # 1: `doubt` has been trained

    def embed(self, moment: Moment) -> Tensor:
        """Return the tokens [..., width] of moments [...]."""
        tokens: Tensor = self.token(self.moment_features(moment))
        return tokens

    def forward(self, moment: Moment, cache: LayerCache, places: Tensor, mask: Tensor | None) -> Tensor:
        """Answer tokens that do not see each other.

        Args:
            moment: of each token, [B, Q].
            places: [Q], position of each token in the sequence.
            mask: [B, 1, Q, N], True where a token may look at the cache; None: everywhere.

        Returns:
            [B, Q, A], actions.
        """
        answer: Tensor = self.head(self._alone(moment, cache, places, mask))
        return answer

    def judge(self, moment: Moment, cache: LayerCache, places: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, and how much a picture of now is expected to better it, [B, Q], action units."""
        tokens = self._alone(moment, cache, places, mask)
        told = torch.cat((tokens, self.moment_features(moment)), dim=-1)
        return self.head(tokens), self.doubt(told).squeeze(-1)

    def _alone(self, moment: Moment, cache: LayerCache, places: Tensor, mask: Tensor | None) -> Tensor:
        tokens = self.embed(moment)
        count = tokens.shape[1]
        own = None if count == 1 else torch.eye(count, dtype=torch.bool, device=tokens.device)
        return self.read(tokens, cache, places, mask, own)


class ChunkExpert(Expert):
    """One token for each action of the horizon; denoises them together (conditional flow matching from noise).

    All are told the moment at which the first of them begins.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__(config, len(config.action_names) + 2 * TIME_FREQUENCIES)
        self.step = nn.Parameter(torch.randn(config.chunk_horizon, config.width) * 0.02)
        self.begin = nn.Linear(moment_features_of(config), config.width)

    def embed(self, noisy: Tensor, time: Tensor, moment: Moment) -> Tensor:
        """Return the tokens [B, C, H, width] of chunks [B, C, H, A] at times [B, C] that begin at moments [B, C]."""
        times = self.time_features(time).unsqueeze(2).expand(-1, -1, noisy.shape[2], -1)
        begins = self.begin(self.moment_features(moment)).unsqueeze(2)
        tokens: Tensor = self.token(torch.cat((noisy, times), dim=-1)) + self.step + begins
        return tokens

    def forward(
        self, noisy: Tensor, time: Tensor, moment: Moment, cache: LayerCache, first: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return the velocity from noise to actions, [B, C, H, A].

        Args:
            noisy: [B, C, H, A], C chunks that do not see each other; time: [B, C], 0 is noise and 1 are actions.
            moment: [B, C], at which each chunk's first action begins.
            first: [C], position of each chunk's first token in the sequence.
            mask: [B, 1, C * H, N], True where an action may look at the cache; None: everywhere.
        """
        batch, chunks, horizon, size = noisy.shape
        tokens = self.embed(noisy, time, moment)
        places = (first.unsqueeze(-1) + torch.arange(horizon, device=first.device)).flatten()
        own = None
        if chunks > 1:
            number = torch.arange(chunks, device=noisy.device).repeat_interleave(horizon)
            own = number.unsqueeze(0) == number.unsqueeze(1)
        answer: Tensor = self.head(self.read(tokens.flatten(1, 2), cache, places, mask, own))
        return answer.view(batch, chunks, horizon, size)
