"""Where the tokens of a cache stand: the rotation of every slot, looked up instead of computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kv_cache.policies.base import Sizes
from kv_cache.rotary import angles
from kv_cache.spec import CacheSpec
from kv_cache.view import Ledger

ROWS_AHEAD = 64  # positions at least that recent tokens can move on until rows are computed anew


def slot_positions(sizes: Sizes, device: torch.device) -> Tensor:
    """Return the positions of sinks and summaries, [sinks + summaries]; there is no summary before all sinks are there.

    A summary stands in the middle of the C positions of its chunk: position s + jC + (C - 1) / 2 for the j-th.
    """
    slots = torch.arange(sizes.sinks + sizes.summaries, device=device, dtype=torch.float64)
    middle = sizes.sinks + (slots - sizes.sinks) * sizes.chunk + (sizes.chunk - 1) / 2
    return torch.where(slots < sizes.sinks, slots, middle)


def rotary_table(spec: CacheSpec, sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each [sinks + summaries + max_positions, F].

    Rows: the slots of sinks and summaries at their positions, then the positions 0, 1, 2, ...
    """
    both = _rows(spec, torch.cat((slot_positions(sizes, device), _positions(0, sizes.max_positions, device))))
    return both[0].clone(), both[1].clone()


def rotary_table_bytes(spec: CacheSpec, sizes: Sizes) -> int:
    """Return the bytes that `rotary_table` takes."""
    return _bytes_of_rows(spec, sizes.sinks + sizes.summaries + sizes.max_positions)


class SlotRotations:
    """Cosine and sine of the slots of one session.

    Sinks and summaries never leave their positions. Recent tokens move on by a chunk with every summary, over far more
    positions than slots: so there are rows for a stretch of positions only, computed anew when a session outgrows it.
    """

    def __init__(self, spec: CacheSpec, sizes: Sizes, device: torch.device) -> None:
        self._spec, self._sizes, self._device = spec, sizes, device
        self._fixed = _rows(spec, slot_positions(sizes, device))
        self._first, self._recent = 0, _rows(spec, _positions(0, _stretch(sizes), device))  # from the first position on

    @staticmethod
    def most_bytes(spec: CacheSpec, sizes: Sizes) -> int:
        """Return the most bytes that the rows of a session take."""
        return _bytes_of_rows(spec, sizes.sinks + sizes.summaries + _stretch(sizes))

    def of(self, ledger: Ledger) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of all slots that `ledger` holds, each [slots, F]."""
        fixed, end = ledger.sinks + ledger.memory, ledger.positions(self._sizes.chunk)
        begin = end - ledger.recents
        if begin < self._first or end > self._first + self._recent.shape[1]:
            self._first = begin  # no recent token stands before it until the session begins again
            self._recent = _rows(self._spec, _positions(begin, begin + _stretch(self._sizes), self._device))
        front = self._fixed
        if ledger.memory > len(ledger.numbers):
            front = _rows(self._spec, _mixed_positions(ledger, self._sizes, self._device))
        rows = torch.cat((front[:, :fixed], self._recent[:, begin - self._first : end - self._first]), dim=1)
        return rows[0], rows[1]


def _mixed_positions(ledger: Ledger, sizes: Sizes, device: torch.device) -> Tensor:
    """Return the positions of sinks, summaries and the tokens of chunks that are held word for word."""
    lengths = torch.tensor(ledger.lengths, device=device)
    chunk = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
    place = torch.arange(len(chunk), device=device) - (lengths.cumsum(0) - lengths)[chunk]  # within its chunk
    inside = torch.where(lengths[chunk] == 1, (sizes.chunk - 1) / 2, place.double())
    memory = ledger.sinks + chunk * sizes.chunk + inside
    return torch.cat((_positions(0, ledger.sinks, device), memory))


def _stretch(sizes: Sizes) -> int:
    """Return how many positions have rows: those that recent tokens fill, and at most as many as they ever use."""
    recents = sizes.recent + sizes.chunk - 1
    return min(recents + max(recents, ROWS_AHEAD), sizes.max_positions - sizes.sinks)


def _positions(begin: int, end: int, device: torch.device) -> Tensor:
    return torch.arange(begin, end, device=device, dtype=torch.float64)


def _bytes_of_rows(spec: CacheSpec, rows: int) -> int:
    return 2 * rows * len(spec.frequencies) * spec.table_dtype.itemsize


def _rows(spec: CacheSpec, positions: Tensor) -> Tensor:
    """Return cosine and sine of positions [T], [2, T, F]."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        used = torch.tensor(spec.frequencies, dtype=torch.float64, device=positions.device)
        return torch.stack(angles(positions, used)).to(spec.table_dtype)


def joined(places: Iterable[range]) -> list[range]:
    """Return the places with those in one piece that follow each other, and without empty ones."""
    found: list[range] = []
    begin = end = 0
    for each in places:
        if each.start == end:
            end = each.stop
        elif each:
            if begin < end:
                found.append(range(begin, end))
            begin, end = each.start, each.stop
    if begin < end:
        found.append(range(begin, end))
    return found


def pieces(sources: Sequence[Tensor], places: Iterable[range], dim: int = 2) -> list[Tensor]:
    """Return the tokens at `places`, in this order, of the sources one after the other; tokens are dimension `dim`."""
    return [piece for each in places for piece in _between(sources, each, dim)]


def pick(sources: Sequence[Tensor], places: Iterable[range], dim: int = 2) -> Tensor:
    """Return `pieces` as one tensor: a part of a source where they are one piece."""
    found = pieces(sources, places, dim)
    if len(found) == 1:
        return found[0]
    return torch.cat(found, dim=dim) if found else sources[0].narrow(dim, 0, 0)


def _between(sources: Sequence[Tensor], places: range, dim: int) -> Iterator[Tensor]:
    offset = 0
    for source in sources:
        count = source.shape[dim]
        begin, end = max(places.start - offset, 0), min(places.stop - offset, count)
        if begin < end:
            yield source.narrow(dim, begin, end - begin)
        offset += count
