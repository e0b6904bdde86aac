"""How much time is left until a deadline."""

from __future__ import annotations

import time


def left_s(deadline_s: float) -> float:
    """Return the seconds until a time of time.monotonic(); TimeoutError when it is over."""
    left = deadline_s - time.monotonic()
    if left <= 0.0:
        raise TimeoutError
    return left
