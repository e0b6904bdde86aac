"""The memory of an episode for the report: the cache's size over time, and the memory map or why there is none."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from streaming_vla.engine.options import InferenceOptions
from streaming_vla.workbench.report.records import CacheAt, EpisodeRecord

WITHOUT_SUMMARIES = ("full", "window", "newest")  # policies that judge no chunk: nothing in between kept and forgotten


def memory_series(record: EpisodeRecord, inference: InferenceOptions) -> dict[str, Any]:
    """Return the series of `report_html.make_run` that tell of the cache; empty when nothing was prefilled.

    Args:
        inference: options of the inference node.
    """
    cache = record.cache
    if not cache:
        return {}
    times_s = [at.time_s - record.begin_s for at in cache]
    return {
        "kv_bytes": [[time_s, at.bytes] for time_s, at in zip(times_s, cache, strict=True)],
        "kv_full_bytes": [[time_s, at.full_bytes] for time_s, at in zip(times_s, cache, strict=True)],
        "chunks_kept": [[time_s, at.chunks_kept] for time_s, at in zip(times_s, cache, strict=True) if at.chunks_kept],
        "memory_map": _why_none(cache[-1], inference) or _map(record, inference),
    }


def block_of(cache: Sequence[CacheAt]) -> int:
    """Return the tokens of an observation: the least by which the history grew, whatever was not heard."""
    return min(after - before for before, after in pairwise([0, *(at.full_tokens for at in cache)]))


def _why_none(last: CacheAt, inference: InferenceOptions) -> dict[str, str]:
    if last.policy not in WITHOUT_SUMMARIES:
        return {}
    sinks = inference.cache_sinks
    newest = f"the first {sinks} and the newest ones" if sinks else "the newest ones"
    what = "all of them" if last.tokens == last.full_tokens else newest
    held = f"at the end it held {last.tokens} of {last.full_tokens} tokens as they were, {what}"
    return {"about": f"The cache keeps no chunks by score (cache_policy {last.policy}): {held}."}


def _map(record: EpisodeRecord, inference: InferenceOptions) -> dict[str, str]:
    # loaded here: torch takes seconds, and a window needs none of it
    from streaming_vla.engine.cache import engine_options
    from streaming_vla.workbench.evaluation.memory_map import draw_memory_map, map_of_record

    block = block_of(record.cache)
    map_of = map_of_record(record, engine_options(inference, block).policy(), block)
    drawn = io.BytesIO()
    draw_memory_map(map_of, drawn)
    return {"data": base64.b64encode(drawn.getvalue()).decode(), "about": map_of.in_words()}
