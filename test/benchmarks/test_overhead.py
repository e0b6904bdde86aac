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


def test_the_overhead_of_an_action_leaves_the_model_time_out() -> None:
    overhead = action_overhead_ms(make_episode("streaming", contexts=2))
    # a context's first action may have waited for it, and the episode's second one is asked for before the first came
    assert len(overhead) == 2 * (HORIZON - 1) - 1
    assert overhead == pytest.approx(len(overhead) * [1.5], abs=1e-3)


def test_an_action_that_waits_behind_another_says_nothing_of_the_overhead() -> None:
    record = make_episode("streaming", contexts=2)
    record.spans = [
        replace(span, begin_s=span.begin_s - 0.06) if (span.stage, span.index) == ("generate", 4) else span
        for span in record.spans
    ]
    assert len(action_overhead_ms(record)) == 2 * (HORIZON - 2) - 1


def test_the_way_of_an_action_is_from_when_the_model_made_it_to_when_it_came() -> None:
    record = make_episode("streaming", contexts=3)
    record.spans = [
        replace(span, end_s=span.end_s + 0.02) if (span.stage, span.index) == ("generate", 9) else span
        for span in record.spans
    ]
    assert one_way_ms(record, 10) == pytest.approx(3 * [20.5], abs=1e-3)
    assert one_way_ms(record, 1) == pytest.approx(3 * [0.5], abs=1e-3)


def test_growth_compares_the_last_fifth_with_the_first() -> None:
    assert growth_percent(20 * [100.0]) == 0.0
    assert growth_percent([100.0] * 10 + [103.0] * 10) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="at least 10 values, there are 4"):
        growth_percent([1.0] * 4)
