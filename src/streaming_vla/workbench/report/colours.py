"""The colours of pictures and pages: one for each stage wherever it is drawn, and red for halts."""

from __future__ import annotations

INK, FAINT, GRID = "#24292f", "#59636e", "#e4e8ec"
HALT = "#d1242f"
ACTIONS = ("#4c9a6a", "#8cc7a1")  # alternating from one context to the next
STAGES = {
    "observe": "#e08e0b",
    "prefill": "#7048b6",
    "flow_step": "#2f7fd0",
    "generate": "#57b8d4",
    "execute": ACTIONS[0],
}
RUNS = ("#1f4e79", "#9a8b1c", "#0f766e", "#8c3f7a", "#5b6670", "#7a5230")  # none like that of a stage


def of_run(place: int) -> str:
    """Return the colour of the run, or the curve, at this place; they come again behind the last."""
    return RUNS[place % len(RUNS)]
