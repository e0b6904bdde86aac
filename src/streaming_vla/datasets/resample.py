"""An episode at another rate: values between two steps are interpolated, changes summed, pictures the newest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Resampled:
    """T' steps: state [T', S], action [T', A], and the step of the recording that was seen last then, [T']."""

    state: Floats
    action: Floats
    steps: npt.NDArray[np.int64]


def resample(state: Floats, action: Floats, absolute: Sequence[bool], rate: Fraction, wanted: Fraction) -> Resampled:
    """Return T steps at `rate` as steps at the rate `wanted`, from the first one on.

    The action of a step is what the robot was told at its end, so an absolute one is interpolated between the ends of
    steps. A change is what all of a step adds: of a longer step the sum, of a shorter one its share.

    Args:
        state: [T, S].
        action: [T, A].
        absolute: of each dimension, [A].
    """
    count = len(state)
    period = float(rate / wanted)  # of a new step, in old ones
    total = max(1, int(count / period + 1e-9))
    begins = np.arange(total) * period
    old = np.arange(count)
    ends = begins + period
    states = np.stack([np.interp(begins, old, column) for column in state.T], axis=1)
    columns = []
    for column, is_absolute in zip(action.T.astype(np.float64), absolute, strict=True):
        if is_absolute:
            columns.append(np.interp(ends, old + 1, column))
        else:
            summed = np.concatenate(([0.0], column.cumsum()))
            edges = np.interp(np.append(begins, ends[-1]), np.arange(count + 1), summed)
            columns.append(np.diff(edges))
    return Resampled(
        states.astype(np.float32),
        np.stack(columns, axis=1).astype(np.float32),
        np.minimum(np.floor(begins + 1e-9).astype(np.int64), count - 1),
    )
