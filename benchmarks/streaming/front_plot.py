"""Draws what a look is worth: success and time of every rule against its observations per action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.ticker import PercentFormatter

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# of each rule: what it is called, and its colour
RULES = {
    "ours_random": ("at random", "#57606a"),
    "ours_action_norm": ("the arm has moved", "#0969da"),
    "ours_adaptive": ("the gripper is about to switch", "#bf8700"),
    "ours_predicted": ("the picture is expected to have changed", "#8250df"),
    "ours_doubt": ("the policy doubts what it sees", "#1a7f37"),
}


def draw_front(front: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write success and median time against observations per action, one line per rule."""
    with plt.rc_context({"font.family": "DejaVu Sans", "font.size": 10}):
        figure, (above, below) = plt.subplots(2, 1, figsize=(8.0, 7.5), sharex=True, layout="constrained", dpi=160)
        for rule, (name, colour) in RULES.items():
            points = sorted(
                (each for each in front if each["rule"] == rule), key=lambda each: each["observations_per_action"]
            )
            if not points:
                continue
            looks = [each["observations_per_action"] for each in points]
            success = [each["success"] for each in points]
            bars = [
                [each["success"] - each["low"] for each in points],
                [each["high"] - each["success"] for each in points],
            ]
            above.errorbar(looks, success, bars, color=colour, lw=0.8, alpha=0.25, ls="")
            above.plot(looks, success, "o-", color=colour, ms=5, lw=1.4, label=name)
            timed = [
                (x, each["episode_s"]) for x, each in zip(looks, points, strict=True) if each["episode_s"] is not None
            ]
            below.plot(*zip(*timed, strict=True), "o-", color=colour, ms=5, lw=1.4)
        above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        above.set_ylabel("success, with 95 % interval")
        above.legend(loc="lower right", frameon=False, title="observes early where")
        below.set_ylabel("median time of a solved episode (s)")
        below.set_xlabel("observations per action")
        for axis in (above, below):
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path)
        plt.close(figure)
