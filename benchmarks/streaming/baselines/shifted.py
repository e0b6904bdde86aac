"""The compact policy's chunks where a strategy lets them begin later than their pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from baselines.generator import ChunkGenerator
from kv_cache.cache import CacheView
from streaming_vla.policies.compact.chunk_head import ChunkBegin, ChunkHead
from streaming_vla.policies.contract import Matrix, PolicyObservation, Prefilled, Slices
from streaming_vla.policies.guide import Guide


class ShiftedChunks:
    """A chunk head that is told when its chunks begin.

    Args:
        source: says when.
    """

    def __init__(self, chunks: ChunkHead, source: ChunkGenerator) -> None:
        self._chunks, self._source = chunks, source
        self.spec = chunks.spec

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Prefill as the head does; what it leaves says when the chunk begins."""
        shift = self._source.shift
        prefilled = yield from self._chunks.prefill(observation, view)
        if shift is None:
            return prefilled
        return prefilled._replace(context=replace(prefilled.context, pending=shift.actions, age=shift.count))

    def denoise(
        self, view: CacheView, context: ChunkBegin, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Matrix]:
        """Denoise as the head does."""
        return self._chunks.denoise(view, context, steps, guide, random)
