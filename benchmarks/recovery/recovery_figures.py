"""From the events of faults to the figures of results.json."""

from __future__ import annotations

from typing import Any

import numpy as np
from conductor import NODES
from deaths import STEPS

KINDS = ("kill", "stop")


def summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what results.json says of faults: per node and kind, and the steps of the way back."""
    found: dict[str, Any] = {}
    for node in NODES:
        kinds = {}
        for kind in KINDS:
            of_kind = [event for event in events if event["node"] == node and event["kind"] == kind]
            if of_kind:
                kinds[kind] = _figures(of_kind)
        if kinds:
            found[node] = kinds
    steps: dict[str, dict[str, float]] = {}
    for node in found:
        of_node = [event["steps_s"] for event in events if event["node"] == node and "steps_s" in event]
        if of_node:
            values = {step: [event[step] for event in of_node if step in event] for step in STEPS}
            steps[node] = {step: round(float(np.median(times)), 3) for step, times in values.items() if times}
    return {**found, "breakdown_s": steps}


def _figures(events: list[dict[str, Any]]) -> dict[str, Any]:
    def quantiles(name: str) -> dict[str, float | None]:
        values = [event[name] for event in events if event[name] is not None]
        if not values:
            return {f"{name}_p50": None, f"{name}_max": None}
        return {f"{name}_p50": round(float(np.median(values)), 3), f"{name}_max": round(float(max(values)), 3)}

    return {
        "times": len(events),
        "recovered": sum(event["recovered"] for event in events),
        **quantiles("hold_s"),
        **quantiles("back_s"),
        "slowest_simulation": min((pace for event in events if (pace := event["simulation_pace"])), default=None),
        "said": sum(bool(event["error_lines"] or event["recovered_lines"]) for event in events),
    }
