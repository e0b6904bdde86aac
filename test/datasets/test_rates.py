"""One rate for film, table and description."""

from __future__ import annotations

from fractions import Fraction

import pytest

from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.rates import fps_number, rate_of_fps, rate_of_period

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("period_s", "rate"),
    [
        (0.05, 20), (0.033333, 30), (0.0333333333, 30), (1 / 30, 30), (0.02, 50), (0.1, 10), (0.0166667, 60),
        (1001 / 30000, NTSC), (0.0333667, NTSC), (0.03336667, NTSC), (0.0417083, Fraction(24000, 1001)),
        (0.04, 25), (0.07, Fraction(100, 7)), (0.0125, 80), (0.03, Fraction(100, 3)), (2.0, Fraction(1, 2)),
    ],
)  # fmt: skip
def test_a_rounded_period_is_that_of_a_round_rate(period_s: float, rate: Fraction) -> None:
    assert rate_of_period(period_s) == rate


@pytest.mark.parametrize("period_s", [0.0331, 0.0334, 0.0337, 0.0501, 0.0123456])
def test_another_period_stays_what_it_is(period_s: float) -> None:
    assert abs(float(rate_of_period(period_s)) * period_s - 1) <= 1e-4
    assert rate_of_period(period_s) != round(1 / period_s) or abs(round(1 / period_s) * period_s - 1) <= 1e-4


@pytest.mark.parametrize("rate", [Fraction(30), NTSC, Fraction(24000, 1001), Fraction(100, 7), Fraction(2997, 100)])
def test_a_rate_survives_the_description(rate: Fraction) -> None:
    number = fps_number(rate)
    assert rate_of_fps(number, "it") == rate
    assert abs(3600 * float(rate) / number - 3600) < 1e-4  # s in an hour


@pytest.mark.parametrize("fps", [0, -30, float("nan"), float("inf"), "30", None, True, 1e9])
def test_what_is_no_rate_is_refused(fps: object) -> None:
    with pytest.raises(DatasetError, match=r"fps of 'mine' is .* expected steps per second"):
        rate_of_fps(fps, "'mine'")  # type: ignore[arg-type]


@pytest.mark.parametrize("period_s", [0.0, -0.05, float("nan"), 1e-5, 1e9])
def test_what_is_no_period_is_refused(period_s: float) -> None:
    with pytest.raises(DatasetError, match=r"expected 0.001 to 1000 s"):
        rate_of_period(period_s)
