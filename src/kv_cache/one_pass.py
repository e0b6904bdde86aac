"""A whole episode at once, seen as a cache would let it be seen: the window as it is, and summaries, closed up.

Queries come in groups (those of one observation) that find the cache in the same state. A group reads the few tokens
of its window and the summaries, so that an episode costs as much as it would online, and not the square of its length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kv_cache.policies.base import Sizes
from kv_cache.rotary import angles, apply_rotary
from kv_cache.sampling import chunk_count, closed_positions, gated_share
from kv_cache.spec import CacheSpec


@dataclass(frozen=True)
class Fate:
    """What becomes of the chunks of B episodes.

    Args:
        keep: [B, n] bool.
        weight: [B, n], of each summary in attention: 0 or 1, with a gradient where it was drawn (see hard_sample).
    """

    keep: Tensor
    weight: Tensor

    @classmethod
    def of(cls, keep: Tensor) -> Fate:
        """Return the fate that `keep` [B, n] says, without a gradient."""
        return cls(keep, keep.float())


@dataclass(frozen=True)
class LayerMemory:
    """Keys and values of one layer: of all tokens [B, Hkv, T, d], and of all summaries [B, Hkv, n, d]; keys rotated."""

    keys: Tensor
    values: Tensor
    summary_keys: Tensor
    summary_values: Tensor


class Asked:
    """Groups of queries, and what the cache holds when each is asked.

    Args:
        held: [S], tokens that have been appended when a group is asked.
        own: tokens behind these that a group sees too, those of its own observation.
        places: [Q], where the queries of a group stand behind the held tokens.
        total: tokens T of the episode.
        fate: of its chunks.
        sizes: of the cache; its budget is not enforced.
        spec: of the tokens.
    """

    def __init__(
        self, held: Tensor, own: int, places: Tensor, total: int, fate: Fate, sizes: Sizes, spec: CacheSpec
    ) -> None:
        self.fate, self.sizes = fate, sizes
        gone = (held - sizes.sinks - sizes.recent).clamp(min=0) // sizes.chunk
        begin, end = sizes.sinks + gone * sizes.chunk, held + own
        span = torch.arange(int((end - begin).clamp(min=1).max()), device=held.device)
        window = begin.unsqueeze(1) + span
        self.window = window.clamp(max=total - 1)  # [S, W], numbers of tokens
        sink = torch.arange(sizes.sinks, device=held.device).expand(len(held), -1)
        made = torch.arange(chunk_count(total, sizes), device=held.device) < gone.unsqueeze(1)
        self._seen = window < end.unsqueeze(1), torch.cat((sink < end.unsqueeze(1), made), dim=1)
        frequencies = torch.tensor(spec.frequencies, dtype=torch.float64, device=held.device)
        near = held.unsqueeze(1) + places
        moved, _ = closed_positions(fate.keep, held, sizes)
        # cosine and sine of queries [S, Q] as the window sees them, and [B, 1, S, Q] as sinks and summaries do
        self.near = angles(near, frequencies)
        far = angles(near - moved.unsqueeze(-1), frequencies)
        self.far = far[0].unsqueeze(1), far[1].unsqueeze(1)

    def attend(self, queries: Tensor, memory: LayerMemory, own: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        """Attend to what the cache holds.

        Args:
            queries: [B, Hq, S, Q, d], before rotation.
            memory: of the layer.
            own: keys (before rotation) and values [B, Hkv, S, Q, d] of the queries' own tokens where these are not
                part of the episode, and who of a group sees whom, [Q, Q] bool.

        Returns:
            [B, Hq, S, Q, d].
        """
        batch, heads, groups, count, size = queries.shape
        kv_heads = memory.keys.shape[1]
        shape = (batch, kv_heads, heads // kv_heads, groups, count, size)

        def grouped(rotated: Tensor) -> Tensor:  # [B, Hkv, S, G * Q, d]
            return rotated.view(shape).transpose(2, 3).flatten(3, 4)

        near, far = grouped(apply_rotary(queries, *self.near)), grouped(apply_rotary(queries, *self.far))
        sinks = self.sizes.sinks
        far_keys = torch.cat((memory.keys[:, :, :sinks], memory.summary_keys), dim=2)
        far_values = torch.cat((memory.values[:, :, :sinks], memory.summary_values), dim=2)
        keys, values = memory.keys[:, :, self.window], memory.values[:, :, self.window]
        in_window, in_memory = (seen[:, None] for seen in self._seen)
        if own is not None:
            keys = torch.cat((keys, apply_rotary(own[0], *self.near)), dim=3)
            values = torch.cat((values, own[1]), dim=3)
            mine = own[2].repeat(heads // kv_heads, 1).expand(groups, -1, -1)
            in_window = torch.cat((in_window.expand(-1, mine.shape[1], -1), mine), dim=2)
        logits = torch.cat(
            (
                (near @ keys.transpose(-1, -2)).masked_fill(~in_window, -torch.inf),
                (far @ far_keys.unsqueeze(2).transpose(-1, -2)).masked_fill(~in_memory, -torch.inf),
            ),
            dim=-1,
        )
        share = gated_share(logits / size**0.5, self.fate.weight)
        from_window, from_memory = share.split((keys.shape[3], far_keys.shape[2]), dim=-1)
        seen = from_window @ values + from_memory @ far_values.unsqueeze(2)
        answer: Tensor = seen.unflatten(3, (heads // kv_heads, count)).transpose(2, 3).reshape(queries.shape)
        return answer


def remember(
    keys: Tensor, values: Tensor, summary: tuple[Tensor, Tensor], fate: Fate, sizes: Sizes, spec: CacheSpec
) -> LayerMemory:
    """Return a layer's memory from its tokens [B, Hkv, T, d] and summaries [B, Hkv, n, d], keys before rotation."""
    frequencies = torch.tensor(spec.frequencies, dtype=torch.float64, device=keys.device)
    positions = torch.arange(keys.shape[2], device=keys.device)
    _, places = closed_positions(fate.keep, positions[:1], sizes)
    cos, sin = angles(places, frequencies)
    return LayerMemory(
        apply_rotary(keys, *angles(positions, frequencies)),
        values,
        apply_rotary(summary[0], cos.unsqueeze(1), sin.unsqueeze(1)),
        summary[1],
    )
