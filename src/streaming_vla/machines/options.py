"""Checks that the options of all machines share; the messages name the parameter as the user writes it."""

from __future__ import annotations

import math


def require_seconds(name: str, value: float, low_s: float = 0.0) -> None:
    """Check a time in seconds.

    Raises:
        ValueError: not finite, or below `low_s`.
    """
    if not math.isfinite(value) or value < low_s:
        raise ValueError(f"{name} is {value} s: give a number of seconds of at least {low_s:g}")


def require_period(name: str, value: float) -> None:
    """Check a period in seconds.

    Raises:
        ValueError: not finite, or not above zero.
    """
    if not math.isfinite(value) or value <= 0.0:
        raise ValueError(f"{name} is {value} s: give a number of seconds above 0")


def require_count(name: str, value: int, low: int) -> None:
    """Check a whole number.

    Raises:
        ValueError: below `low`.
    """
    if value < low:
        raise ValueError(f"{name} is {value}: give a whole number of at least {low}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check a word.

    Raises:
        ValueError: not one of `choices`.
    """
    if value not in choices:
        raise ValueError(f"{name} is '{value}': choose one of {', '.join(choices)}")
