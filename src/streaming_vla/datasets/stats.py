"""Statistics of features as lerobot keeps them: minimum, maximum, mean, deviation, count and five quantiles.

lerobot estimates quantiles in 5000 bins, and those of a set by averaging the episodes' own; here they are exact, of an
episode and of the whole set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
LEVELS = 256
SMALL_PX = 150  # pictures are looked at in about this size
Pixels = npt.NDArray[np.uint8]
Statistics = dict[str, list[Any]]


def vector_statistics(values: npt.NDArray[Any]) -> Statistics:
    """Return the statistics of T vectors [T, N], or of T numbers [T]; each is a list of N numbers."""
    rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    found = {
        "min": rows.min(axis=0).tolist(),
        "max": rows.max(axis=0).tolist(),
        "mean": rows.mean(axis=0).tolist(),
        "std": rows.std(axis=0).tolist(),
        "count": [len(rows)],
    }
    return {**found, **dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0).tolist(), strict=True))}


class PictureStatistics:
    """How often each level of each colour is seen; exact for the pixels that are looked at, whatever their number."""

    def __init__(self) -> None:
        self.pictures = 0
        self.counts = np.zeros((3, LEVELS), dtype=np.int64)  # RGB

    def add(self, pixels: Pixels) -> None:
        """Count a picture [H, W, 3] BGR, every so many rows and columns."""
        step = max(1, max(pixels.shape[:2]) // SMALL_PX)
        small = pixels[::step, ::step]
        for colour in range(3):
            self.counts[2 - colour] += np.bincount(small[..., colour].reshape(-1), minlength=LEVELS)
        self.pictures += 1

    def merge(self, other: PictureStatistics) -> None:
        """Add what another one has counted."""
        self.pictures += other.pictures
        self.counts += other.counts

    def statistics(self) -> Statistics:
        """Return the statistics of each colour, 0 to 1, in the shape [3, 1, 1] that lerobot expects."""
        levels = np.arange(LEVELS) / (LEVELS - 1)
        total = self.counts.sum(axis=1, keepdims=True)
        mean = (self.counts * levels).sum(axis=1, keepdims=True) / total
        variance = (self.counts * (levels - mean) ** 2).sum(axis=1, keepdims=True) / total
        below = self.counts.cumsum(axis=1) / total
        found = {
            "min": [levels[np.flatnonzero(each)[0]] for each in self.counts],
            "max": [levels[np.flatnonzero(each)[-1]] for each in self.counts],
            "mean": mean,
            "std": np.sqrt(variance),
        }
        for name, share in QUANTILES.items():
            found[name] = [levels[np.searchsorted(each, share)] for each in below]
        shaped: Statistics = {name: np.reshape(each, (3, 1, 1)).tolist() for name, each in found.items()}
        return {**shaped, "count": [self.pictures]}

    def to_json(self) -> dict[str, Any]:
        """Return what has been counted as plain values."""
        return {"pictures": self.pictures, "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> PictureStatistics:
        """Return what `to_json` made."""
        found = cls()
        found.pictures, found.counts = int(held["pictures"]), np.array(held["counts"], dtype=np.int64)
        return found
