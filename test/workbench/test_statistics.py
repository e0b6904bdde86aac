"""Wilson's interval and summaries against known values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.workbench.report.statistics import summarise, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # published examples: Newcombe 1998, table I, and the closed form
        (10, 10, 0.7225, 1.0),
        (8, 10, 0.4902, 0.9433),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_has_the_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_interval_holds_the_rate_and_stays_in_bounds(successes: int, trials: int) -> None:
    if successes > trials:
        with pytest.raises(ValueError, match="expected 0 <= successes <= trials"):
            wilson_interval(successes, trials)
        return
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0


def test_without_a_trial_every_rate_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_summary_counts_and_scales() -> None:
    summary = summarise([0.001 * value for value in range(1, 102)], 1000.0)
    assert summary.count == 101
    assert summary.mean == pytest.approx(51.0)
    assert (summary.p50, summary.p95, summary.p99, summary.max) == pytest.approx((51.0, 96.0, 100.0, 101.0))


def test_summary_of_nothing_says_so() -> None:
    summary = summarise([])
    assert summary.count == 0
    assert summary.mean is None and summary.p95 is None
