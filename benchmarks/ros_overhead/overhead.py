"""What ROS costs, read from the records of episodes: tick jitter, transport, overhead of an action."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from streaming_vla.machines.events import Mode
from streaming_vla.workbench.report.records import EpisodeRecord

MS = 1000.0


def tick_jitter_ms(record: EpisodeRecord) -> list[float]:
    """Return by how much the time between two actions in a row differs from T_e, for pairs without a halt between."""
    begun = [at for at in record.states if at.state.mode == Mode.PLAYING]
    return [
        MS * abs(after.time_s - before.time_s - record.control_period_s)
        for before, after in pairwise(begun)
        if after.state.executed == before.state.executed + 1 and after.state.starved_s == before.state.starved_s
    ]


def transport_ms(record: EpisodeRecord) -> list[float]:
    """Return, per observation, the time from published-to-be (end of `observe`) to received (begin of `prefill`)."""
    encoded = {span.sequence: span.end_s for span in record.spans if span.stage == "observe"}
    return [
        MS * (span.begin_s - encoded[span.sequence])
        for span in record.spans
        if span.stage == "prefill" and span.sequence in encoded
    ]


def action_overhead_ms(record: EpisodeRecord) -> list[float]:
    """Return, per action, the time from asked to come (`generate`) without the model's own (`flow_step`).

    Actions count that were asked for when none was awaited: behind others, or for a context to come, they wait for the
    model's other work too.
    """
    model_s = {(span.sequence, span.index): span.duration_s for span in record.spans if span.stage == "flow_step"}
    asked = {(span.sequence, span.index): span for span in record.spans if span.stage == "generate"}
    return [
        MS * (span.duration_s - model_s[sequence, index])
        for (sequence, index), span in asked.items()
        if (before := asked.get((sequence, index - 1))) is not None
        and before.end_s <= span.begin_s
        and (sequence, index) in model_s
    ]


def one_way_ms(record: EpisodeRecord, number: int) -> list[float]:
    """Return, per context, the time from when the model made its `number`-th action to when it came, milliseconds."""
    made_s = {(span.sequence, span.index): span.end_s for span in record.spans if span.stage == "flow_step"}
    firsts: dict[int, int] = {}
    for sequence, index in made_s:
        firsts[sequence] = min(index, firsts.get(sequence, index))
    return [
        MS * (span.end_s - made_s[span.sequence, span.index])
        for span in record.spans
        if span.stage == "generate"
        and (span.sequence, span.index) in made_s
        and span.index == firsts[span.sequence] + number - 1
    ]


def growth_percent(values: Sequence[float]) -> float:
    """Return by how much the mean of the last fifth of `values` exceeds that of the first fifth, in percent.

    Values that are NaN (a process was just being started again) are left out.

    Raises:
        ValueError: fewer than ten values.
    """
    values = [value for value in values if not math.isnan(value)]
    if len(values) < 10:
        raise ValueError(f"growth needs at least 10 values, there are {len(values)}: let it run for longer")
    fifth = len(values) // 5
    first, last = sum(values[:fifth]) / fifth, sum(values[-fifth:]) / fifth
    return 100.0 * (last - first) / first
