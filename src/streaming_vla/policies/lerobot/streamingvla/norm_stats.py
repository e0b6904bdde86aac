"""norm_stats.json of the release: how actions and their sums are normalised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streaming_vla.policies.errors import CheckpointError, shortened
from streaming_vla.policies.lerobot.folder import Folder

NORM_STATS = "norm_stats.json"
FORMULAS = ("linear", "quantile")
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """normalised = slope * raw + shift; with "linear" the shift is 0, so that a sum of actions is normalised as one.

    Args:
        slope, shift: [A].
        low, high: [A], 1st and 99th percentile of the actions.
    """

    slope: Vector
    shift: Vector
    low: Vector
    high: Vector


def read_scale(folder: Folder, formula: str) -> Scale:
    """Return the scale of actions that the only norm_stats.json below assets/ states.

    Args:
        formula: "linear" (x / max(|q01|, |q99|)) or "quantile" (-1 to 1 between q01 and q99). The release's
            configuration names the linear one and its code applies the other; action flow matching adds actions up, for
            which the linear one was made. First actions of a chunk, compared with the data set, decide.

    Raises:
        CheckpointError: no file, more than one, or no such statistics.
    """
    if formula not in FORMULAS:
        raise CheckpointError(f"the normalisation is '{formula}', expected one of {', '.join(FORMULAS)}")
    file = _find(folder)
    who = f"{folder.who}: {file.relative_to(folder.path)}"
    content = Folder(file.parent).json(file.name, "")
    try:
        actions = content["norm_stats"]["actions"]
        low, high = (np.asarray(actions[name], dtype=np.float64) for name in ("q01", "q99"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{who} has no norm_stats.actions with q01 and q99, lists of numbers") from error
    if low.ndim != 1 or low.shape != high.shape or not 1 <= len(low) <= 1024:
        raise CheckpointError(f"{who} has actions of shape {low.shape} and {high.shape}, expected two lists alike")
    if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
        raise CheckpointError(f"{who} has percentiles of actions that are not finite or in the wrong order")
    if formula == "linear":
        slope = 1.0 / (np.maximum(np.abs(low), np.abs(high)) + 1e-6)
        return Scale(slope, np.zeros_like(slope), low, high)
    slope = 2.0 / (high - low + 1e-6)
    return Scale(slope, -1.0 - slope * low, low, high)


def _find(folder: Folder) -> Path:
    assets = folder.path / "assets"
    found = [path for depth in ("", "*/", "*/*/") for path in sorted(assets.glob(f"{depth}{NORM_STATS}"))]
    if len(found) != 1:
        named = ", ".join(shortened(str(path.relative_to(folder.path))) for path in found[:3]) or "none"
        raise CheckpointError(
            f"{folder.who} has {len(found)} files {NORM_STATS} below assets/ ({named}), expected one: that of the data "
            "set that it was trained on"
        )
    return found[0]
