"""Keeps what future queries are expected to look at (Expected Attention, arXiv 2510.00636), chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache.chunks import Chunks, Queries, State
from kv_cache.policies.chunked import Chunked
from kv_cache.rotary import angles, apply_rotary
from kv_cache.spec import CacheSpec

FUTURE_POSITIONS = 512  # the next positions over which the rotation is averaged
DECAY = 0.99  # of the running moments, per report of a layer's queries


def mean_rotation(behind: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cosine and sine of the turns by `behind` [C] and up to FUTURE_POSITIONS - 1 more, each [C, F].

    The turns lie evenly around the middle one, so their mean is the middle one, shrunk by the mean cosine of their
    distances to it.
    """
    middle = (FUTURE_POSITIONS - 1) / 2
    apart = torch.arange(FUTURE_POSITIONS, dtype=torch.float64, device=behind.device) - middle
    shrunk = angles(apart, frequencies)[0].mean(dim=0)
    cos, sin = angles(behind + middle, frequencies)
    return (cos * shrunk).float(), (sin * shrunk).float()


@dataclass(frozen=True)
class Expected(Chunked):
    """A Gaussian is fitted to the queries before rotation; a token's score is log E[exp(q.k / sqrt(d))] |v|.

    For q ~ N(mu, Sigma) and R the mean rotation from the token to the next FUTURE_POSITIONS positions:
    k.R mu / sqrt(d) + k^T R Sigma R^T k / 2d + log |v|. The paper divides by the sum over all tokens; that is the same
    for all chunks of a head, so it is left out, and a score does not depend on how the tokens arrived. A chunk has the
    mean over layers and heads of the log of the mean over its tokens. Before queries have been reported mu is 0 and
    Sigma is 1.
    """

    name = "expected"
    reads_queries = True

    def start(self, spec: CacheSpec, batch: int, device: torch.device) -> State:
        """Return the mean rotation, then of each layer reports [B], mean [B, Hq, d] and second moment [B, Hq, d, d].

        Layers report one by one: a tensor of all of them would be made anew for each.
        """
        heads, size = spec.query_heads or spec.kv_heads, spec.head_dim
        # the distance from the token at place c of a chunk that has just left to the first of the queries to come
        behind = self.recent + self.chunk - torch.arange(self.chunk, device=device)
        cos, sin = mean_rotation(behind, torch.tensor(spec.frequencies, dtype=torch.float64, device=device))
        layers = [
            (
                torch.zeros(batch, device=device),
                torch.zeros(batch, heads, size, device=device),
                torch.eye(size, device=device).repeat(batch, heads, 1, 1),
            )
            for _ in range(spec.layers)
        ]
        return (cos.repeat(batch, 1, 1), sin.repeat(batch, 1, 1), *(part for layer in layers for part in layer))

    def observe(self, queries: Queries, mass: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the queries of a layer into its moments: a plain mean at first, a decaying one later."""
        begin = 2 + 3 * queries.layer
        reports, mean, second = state[begin : begin + 3]
        heads = queries.heads.float()
        reports = reports + 1.0
        weight = reports.reciprocal().clamp(min=1.0 - DECAY).view(-1, 1, 1)
        mean = mean.lerp(heads.mean(dim=2), weight)
        second = second.lerp(heads.transpose(-1, -2) @ heads / heads.shape[2], weight.unsqueeze(-1))
        return mass, (*state[:begin], reports, mean, second, *state[begin + 3 :])

    def score(self, chunks: Chunks, state: State) -> tuple[Tensor, State]:
        """Return the formula's value for every chunk."""
        cos, sin = state[:2]
        mean, second = (torch.stack(state[begin::3], dim=1) for begin in (3, 4))
        keys, size = chunks.keys.float(), chunks.keys.shape[-1]
        batch, layers, kv_heads, count, length, _ = keys.shape
        group = mean.shape[2] // kv_heads
        covariance = second - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        # k.R q = (R^T k).q: the mean rotation is taken to the keys, where it is once per token
        back = apply_rotary(keys, cos[:, None, None, None], -sin[:, None, None, None])
        back = back.reshape(batch, layers, kv_heads, 1, count * length, size)
        mean = mean.view(batch, layers, kv_heads, group, size, 1)
        covariance = covariance.view(batch, layers, kv_heads, group, size, size)
        linear = (back @ mean).squeeze(-1) / size**0.5
        square = ((back @ covariance) * back).sum(dim=-1) / (2 * size)
        norm = chunks.values.float().norm(dim=-1).clamp(min=1e-6).log()
        logs = linear + square + norm.reshape(batch, layers, kv_heads, 1, count * length)
        per_chunk = logs.view(batch, layers, kv_heads, group, count, length).logsumexp(dim=-1)
        return per_chunk.mean(dim=(1, 2, 3)).to(chunks.mass.dtype), state
