"""Whether the searched thresholds had an effect in the bags: one with all values on one side decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.workbench.replay.compare import records_of
from streaming_vla.workbench.replay.replay import Replayed
from streaming_vla.workbench.report.records import CacheAt


def without_effect(replays: Sequence[Replayed], suite: SuiteOptions) -> list[str]:
    """Return a sentence for every threshold that a replay read and that another value would not have changed."""
    judged = [value for each in replays for episode in each.episodes for _, value in episode.judged]
    said = _saliency(judged, suite.saliency_monitor)
    if suite.inference.cache_policy == "gated":
        said += _cache([record.cache[-1] for record in records_of(replays) if record.cache])
    return said


def _saliency(judged: Sequence[float], monitor: MonitorOptions) -> list[str]:
    threshold = monitor.threshold
    if threshold is None:
        return []
    none = f"saliency_threshold {threshold:.4g} has no effect in these bags: "
    if not judged:
        return [f"{none}no saliency was judged by it."]
    low, high = min(judged), max(judged)
    if high < threshold:
        return [f"{none}all {len(judged)} saliencies are below it, the largest is {high:.4g}."]
    if low >= threshold:
        return [f"{none}all {len(judged)} saliencies are at or above it, the smallest is {low:.4g}."]
    return []


def _cache(ends: Sequence[CacheAt]) -> list[str]:
    """Look at the chunks that every episode's cache had kept (some for a while), dropped and evicted by its end."""
    kept, dropped = sum(at.chunks_kept for at in ends), sum(at.chunks_dropped for at in ends)
    evicted = sum(at.chunks_evicted for at in ends)
    said = []
    if not dropped or not kept:
        why = "no chunk was dropped by it" if kept else "it drops every chunk" if dropped else "no chunk was judged"
        said.append(f"cache_threshold has no effect in these bags: {why}.")
    if not evicted:
        said.append("cache_budget has no effect in these bags: nothing had to leave for want of room.")
    return said
