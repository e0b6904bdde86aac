"""Where the tokens of a cache stand: the rotation of every slot, looked up instead of computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from kv_cache.policies.base import Sizes
from kv_cache.rotary import angles
from kv_cache.spec import CacheSpec

TABLES_KEPT = 8  # sessions of one service share a table


def slot_positions(sizes: Sizes, device: torch.device) -> Tensor:
    """Return the positions of sinks and summaries, [sinks + summaries]; there is no summary before all sinks are there.

    A summary stands in the middle of the C positions of its chunk: position s + jC + (C - 1) / 2 for the j-th.
    """
    slots = torch.arange(sizes.sinks + sizes.summaries, device=device, dtype=torch.float64)
    middle = sizes.sinks + (slots - sizes.sinks) * sizes.chunk + (sizes.chunk - 1) / 2
    return torch.where(slots < sizes.sinks, slots, middle)


@lru_cache(maxsize=TABLES_KEPT)
def rotary_table(spec: CacheSpec, sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each [sinks + summaries + max_positions, F].

    Rows: the slots of sinks and summaries at their positions, then the positions 0, 1, 2, ...
    """
    with torch.inference_mode(False):  # the table outlives the caller's mode
        every = torch.arange(sizes.max_positions, device=device, dtype=torch.float64)
        used = torch.tensor(spec.frequencies, dtype=torch.float64, device=device)
        cos, sin = angles(torch.cat((slot_positions(sizes, device), every)), used)
        return cos.to(spec.table_dtype), sin.to(spec.table_dtype)


def pick(sources: Sequence[Tensor], places: Sequence[int]) -> Tensor:
    """Return the tokens at ascending runs of `places` in the sources one after the other, each [L, Hkv, T, d]."""
    pieces = [piece for begin, end in _runs(places) for piece in _between(sources, begin, end)]
    return torch.cat(pieces, dim=2) if pieces else sources[0][:, :, :0]


def _runs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of places that follow each other."""
    begin = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != places[end - 1] + 1:
            yield places[begin], places[end - 1] + 1
            begin = end


def _between(sources: Sequence[Tensor], begin: int, end: int) -> Iterator[Tensor]:
    offset = 0
    for source in sources:
        count = source.shape[2]
        if begin < offset + count and end > offset:
            yield source[:, :, max(begin - offset, 0) : end - offset]
        offset += count
