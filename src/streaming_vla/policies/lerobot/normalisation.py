"""Statistics of a data set, and the affine maps that LeRobot normalises with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.errors import CheckpointError, shortened
from streaming_vla.policies.lerobot.tensor_archive import DTYPES, TensorArchive

Values = npt.NDArray[np.floating[Any]]
"""Statistics are float32, and float32 in gives float32 out, with LeRobot's order of operations: the same bits."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
"""Normalisation modes, and the statistics that each needs."""
RANGES = (("min", "max"), ("q01", "q99"), ("q10", "q90"))


@dataclass(frozen=True)
class Affine:
    """y = (x - offset) / scale * gain - shift, and its inverse, with LeRobot's own epsilons.

    Args:
        offset, scale, back: of the statistics' shape; `scale` divides on the way in, `back` multiplies on the way out.
        gain, shift: 1 and 0 for mean and deviation, 2 and 1 for a range that becomes -1 to 1.
    """

    offset: Values
    scale: Values
    back: Values
    gain: float = 1.0
    shift: float = 0.0

    def normalise(self, values: Values) -> Values:
        """Return data as the network sees them."""
        normalised: Values = self.gain * (values - self.offset) / self.scale - self.shift
        return normalised

    def restore(self, values: Values) -> Values:
        """Return what the network says as data."""
        restored: Values = (values + self.shift) / self.gain * self.back + self.offset
        return restored


Statistics = Mapping[str, Values]


def read_statistics(archive: TensorArchive, feature: str, shape: tuple[int, ...]) -> dict[str, Values]:
    """Return the statistics of a feature that a file holds, each of `shape`; its count is not among them.

    Args:
        feature: its full name.
        shape: [n] of a vector, [3, 1, 1] of pictures.

    Raises:
        CheckpointError: another shape or format, numbers that are not finite, or no spread of the data.
    """
    known = {name for names in NEEDED.values() for name in names}
    found: dict[str, Values] = {}
    for name, stored in archive.tensors.items():
        key, _, statistic = name.rpartition(".")
        if key != feature or statistic not in known:
            continue
        if stored.shape not in (shape, shape[:1]):
            raise CheckpointError(
                f"{archive.who}: '{shortened(name)}' has shape {stored.shape}, expected {shape}: the statistics of "
                "another robot or data set"
            )
        if stored.dtype not in DTYPES:
            raise CheckpointError(f"{archive.who}: '{shortened(name)}' is stored as {shortened(stored.dtype)}")
        found[statistic] = archive.tensor(name).reshape(shape).numpy()
    _check_spread(found, f"{archive.who}: '{feature}'")
    return found


def affine(mode: str, statistics: Statistics, epsilon: float) -> Affine:
    """Return the map of a mode; `statistics` hold what it needs (NEEDED)."""
    if mode == "IDENTITY":
        nothing, one = np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32)
        return Affine(nothing, one, one)
    if mode == "MEAN_STD":
        return Affine(statistics["mean"], statistics["std"] + epsilon, statistics["std"])
    low, high = (statistics[name] for name in NEEDED[mode])
    span = np.where(high == low, np.float32(epsilon), high - low)
    return Affine(low, span, span, gain=2.0, shift=1.0)


def tells_range(statistics: Statistics) -> bool:
    """True where `limits_of` has enough to go by."""
    return any(statistics.keys() >= set(pair) for pair in (*RANGES, ("mean", "std")))


def limits_of(statistics: Statistics, widened: float = 0.1) -> tuple[Values, Values]:
    """Return smallest and largest values that a feature's data have, widened by a share of their range at both ends.

    Without their range, four deviations around the mean. A number that never changed gets a range of 1e-3.
    See `tells_range`.
    """
    for low, high in RANGES:
        if low in statistics and high in statistics:
            span = np.maximum(statistics[high] - statistics[low], 1e-3)
            return statistics[low] - widened * span, statistics[high] + widened * span
    spread = 4.0 * np.maximum(statistics["std"], 1e-3)
    return statistics["mean"] - spread, statistics["mean"] + spread


def _check_spread(statistics: Statistics, who: str) -> None:
    if "std" in statistics and bool((statistics["std"] < 0.0).any()):
        raise CheckpointError(f"{who} has a negative standard deviation: the statistics are damaged")
    for low, high in RANGES:
        if low in statistics and high in statistics and bool((statistics[low] > statistics[high]).any()):
            raise CheckpointError(f"{who} has its {low} above its {high}: the statistics are damaged")
