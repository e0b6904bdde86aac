"""The rate of a data set as one fraction, so that film, table and description never drift apart."""

from __future__ import annotations

from fractions import Fraction

from streaming_vla.datasets.errors import DatasetError

LARGEST_RATE = 1000
CLOSE = 1e-4  # relative: a period that is written with few digits is taken for that of a round rate
EXACT = 1e-8  # relative: the rate of 30000/1001 as a float of a file
LARGEST_DENOMINATOR = 1_000_000
NTSC = Fraction(1000, 1001)  # of the rates 23.976, 29.97 and 59.94


def rate_of_period(period_s: float) -> Fraction:
    """Return the steps per second of a period that was written down with a few digits.

    0.033333 is a rounded 1/30, 0.0333667 a rounded 1001/30000: of the rates that the digits allow a whole one is taken,
    then an NTSC one, then the simplest fraction.

    Raises:
        DatasetError: no period between 1 ms and 1000 s.
    """
    if not 1.0 / LARGEST_RATE <= period_s <= 1000.0:
        raise DatasetError(f"the period of a step is {period_s} s, expected 0.001 to 1000 s")
    digits = len(format(period_s, ".12f").rstrip("0").partition(".")[2])
    loose = min(CLOSE, 0.5 * 10.0**-digits / period_s)
    exact = 1 / Fraction(format(period_s, ".12f"))
    whole = Fraction(round(exact))
    candidates = [whole, round(exact / NTSC) * NTSC] if exact >= 1 else []
    for rate in candidates:
        if rate > 0 and abs(rate / exact - 1) <= loose:
            return rate
    return _simplest(exact, Fraction(max(loose, 1e-9)))


def rate_of_fps(fps: float, where: str) -> Fraction:
    """Return the rate that a data set's description gives as a number.

    Args:
        where: whose number it is, for the refusal.

    Raises:
        DatasetError: no number above 0 and up to 1000.
    """
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= LARGEST_RATE:
        raise DatasetError(f"fps of {where} is {fps!r}, expected steps per second, above 0 and up to {LARGEST_RATE}")
    exact = Fraction(str(fps))
    ntsc = round(exact / NTSC) * NTSC
    if ntsc > 0 and abs(ntsc / exact - 1) <= EXACT:
        return ntsc
    return exact.limit_denominator(LARGEST_DENOMINATOR)


def fps_number(rate: Fraction) -> int | float:
    """Return a rate as a description holds it: whole where it is, else the nearest float."""
    return rate.numerator if rate.denominator == 1 else float(rate)


def _simplest(value: Fraction, relative: Fraction) -> Fraction:
    """Return the fraction of the smallest denominator within `relative` of `value`."""
    denominator = 1
    while denominator < LARGEST_DENOMINATOR:
        found = value.limit_denominator(denominator)
        if found > 0 and abs(found / value - 1) <= relative:
            return found
        denominator *= 2
    return value.limit_denominator(LARGEST_DENOMINATOR)
