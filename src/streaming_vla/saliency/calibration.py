"""From recorded saliencies to the threshold that observes early as often as wanted, as a parameter file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from streaming_vla.saliency.decision import WHEN

MONITOR = "saliency_monitor"  # the node
MODES = ("action_norm", "adaptive")
FEWEST_CONTEXTS = 20  # a quantile of less says nothing


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it does to the episodes that it was taken from.

    Args:
        threshold: of the saliency.
        rate: share of the contexts that it observes early.
        contexts: that were looked at.
    """

    threshold: float
    rate: float
    contexts: int


def extremes(judged: Sequence[Iterable[tuple[int, float]]], when: str) -> list[float]:
    """Return the value that decides each context: its largest saliency, for "calm" its smallest.

    An observation is sent at the first action that passes, so a context is observed early when any of its
    saliencies passes. Record them with a threshold that never passes, or what follows the first one is missing.

    Args:
        judged: per episode (context, saliency) in order.
        when: "salient" or "calm", see decision.py.

    Raises:
        ValueError: an unknown `when`, or a saliency that is not finite.
    """
    if when not in WHEN:
        raise ValueError(f"observe_when is '{when}': choose one of {', '.join(WHEN)}")
    found: list[float] = []
    for episode in judged:
        by_context: dict[int, list[float]] = {}
        for context, saliency in episode:
            if not math.isfinite(saliency):
                raise ValueError(f"calibration: the saliency of context {context} is {saliency}, expected a number")
            by_context.setdefault(context, []).append(saliency)
        found += [max(values) if when == "salient" else min(values) for values in by_context.values()]
    return found


def calibrate(values: Sequence[float], rate: float, when: str = "salient") -> Calibration:
    """Return the threshold at which the share `rate` of the contexts is observed early, without hysteresis.

    Args:
        values: deciding saliency of each context, see `extremes`.
        rate: wanted share, in [0, 1].
        when: "salient" passes from the threshold on, "calm" below it.

    Raises:
        ValueError: the rate is no share, or there are too few contexts.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"trigger rate is {rate}, expected a share from 0 to 1")
    if len(values) < FEWEST_CONTEXTS:
        raise ValueError(
            f"calibration needs at least {FEWEST_CONTEXTS} contexts, got {len(values)}: record more episodes"
        )
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    passing = round(rate * len(ordered))
    if when == "calm":
        threshold = float(ordered[passing]) if passing < len(ordered) else float(np.nextafter(ordered[-1], math.inf))
        share = float(np.mean(ordered < threshold))
    else:
        threshold = float(ordered[len(ordered) - passing]) if passing else float(np.nextafter(ordered[-1], math.inf))
        share = float(np.mean(ordered >= threshold))
    return Calibration(threshold, share, len(ordered))


def parameters(mode: str, of: str, when: str, threshold: float) -> dict[str, Any]:
    """Return the parameters of the monitor that observe with a threshold of `mode`."""
    return {
        "mode": mode,
        **({"saliency_of": of} if mode == "adaptive" else {}),
        "observe_when": when,
        "saliency_threshold": threshold,
        "saliency_release": 1.0,
    }


def write_parameters(path: Path, mode: str, of: str, when: str, calibration: Calibration) -> None:
    """Write a ROS parameter file that sets the monitor to `mode` with the calibrated threshold.

    Raises:
        ValueError: a mode without a threshold.
    """
    if mode not in MODES:
        raise ValueError(f"mode '{mode}' has no saliency threshold: choose one of {', '.join(MODES)}")
    section = {"ros__parameters": parameters(mode, of, when, calibration.threshold)}
    path.write_text(
        f"# Calibrated on {calibration.contexts} contexts: {100 * calibration.rate:.1f} % of them are observed early.\n"
        # by the library: to YAML 1e-05 is a text, 1.0e-05 is the number
        + yaml.safe_dump({f"/**/{MONITOR}": section}, sort_keys=False),
        encoding="utf-8",
    )
