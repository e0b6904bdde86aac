"""ROS overheads read from records with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import HORIZON, make_episode
from overhead import action_overhead_ms, growth_percent, one_way_ms, tick_jitter_ms, transport_ms


def test_jitter_counts_pairs_without_a_halt_between() -> None:
    record = make_episode("synchronous", contexts=3)
    assert len(tick_jitter_ms(record)) == 3 * (HORIZON - 1)
    assert max(tick_jitter_ms(record)) == pytest.approx(0.0, abs=1e-3)
    late = record.states[5]
    record.states[5] = replace(late, time_s=late.time_s + 0.004)
    assert sorted(tick_jitter_ms(record))[-2:] == pytest.approx([4.0, 4.0], abs=1e-3)


def test_transport_is_what_lies_between_encoding_and_prefill() -> None:
    record = make_episode("streaming", contexts=4)
    record.spans = [
        replace(span, begin_s=span.begin_s + 0.002) if span.stage == "prefill" else span for span in record.spans
    ]
    assert transport_ms(record) == pytest.approx(4 * [2.0], abs=1e-3)


def test_an_actions_overhead_leaves_the_model_time_out_and_counts_what_was_asked_for_alone() -> None:
    record = make_episode("streaming", contexts=2)
    overhead = action_overhead_ms(record)
    assert len(overhead) == 2 * (HORIZON - 1), "a context's first action waits for its prefill"
    assert overhead == pytest.approx(2 * (HORIZON - 1) * [1.5], abs=1e-3)
    record.spans = [
        replace(span, begin_s=span.begin_s - 1.0) if (span.stage, span.index) == ("generate", 2) else span
        for span in record.spans
    ]
    assert len(action_overhead_ms(record)) == 2 * (HORIZON - 2), "one that was asked for behind another"


def test_the_one_way_of_an_action_begins_when_the_model_has_made_it() -> None:
    record = make_episode("streaming", contexts=2)
    made_s = {(span.sequence, span.index): span.end_s for span in record.spans if span.stage == "flow_step"}
    record.spans = [
        replace(span, end_s=made_s[span.sequence, span.index] + 0.02 + 0.001 * span.index)
        if span.stage == "generate"
        else span
        for span in record.spans
    ]
    assert one_way_ms(record, 1) == pytest.approx([20.0, 20.0])
    assert one_way_ms(record, 3) == pytest.approx([22.0, 22.0])


def test_growth_compares_the_last_fifth_with_the_first() -> None:
    assert growth_percent(20 * [100.0]) == 0.0
    assert growth_percent([100.0] * 10 + [103.0] * 10) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="at least 10 values, there are 4"):
        growth_percent([1.0] * 4)
