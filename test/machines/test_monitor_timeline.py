"""The timelines in the monitor's documentation are what it does."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from runtime_cases import ACTS, context, only, state

from streaming_vla.machines import monitor
from streaming_vla.machines.events import ObserveRequest
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.monitor_options import MonitorOptions

T, OBSERVE, FLOW_STEP = 1.0, 2.2, 0.3
TAKES_OVER = 4.0  # so long after its picture begins the first action of a context: see the generator's timeline
EARLY = MonitorOptions(
    **ACTS,
    mode="always",
    lead_actions=1,
    control_period_s=T,
    max_silence_s=100.0,
    request_timeout_s=10.0,
    warm_up_contexts=0,
    trained_delay=4,
)
LATE = EARLY.changed(mode="random", random_rate=0.0)
SHOWN = 5  # the context whose life the documentation shows


def lived(options: MonitorOptions, until: str) -> list[tuple[str, str, str]]:
    """Return the lines of the documentation from the first action of context SHOWN to action `until`."""
    made = Monitor(options, last_episode=6)
    made.start_episode(0.0, "open the drawer")
    lines: list[tuple[float, str, str]] = []
    asked, asked_s, playing, index, executed, now = 0, 0.0, 0, -4, 0, 0.0  # its first action begins 4 T later
    came = False
    while f"{playing}.{index}" != until:
        if not came and asked_s + OBSERVE <= now:
            came = True
            ready = replace(context(asked, horizon=10, trained=20), flow_step_s=FLOW_STEP)
            assert made.on_context(ready, asked_s + OBSERVE) == []
            lines.append((asked_s + OBSERVE, "-", f"context {asked} comes"))
        if asked > playing and asked_s + TAKES_OVER <= now:
            playing, index = asked, 0
        if index >= 0:
            executed += 1
            told = only(
                made.on_execution_state(state(context=playing, index=index, executed=executed), now), ObserveRequest
            )
            lines.append((now, f"{playing}.{index}", f"asks for observation {told[0].sequence}" if told else "-"))
            if told:
                asked, asked_s, came = told[0].sequence, now, False
        now, index = now + T, index + 1
    begin_s = next(at for at, action, _ in lines if action == f"{SHOWN}.0")
    return [(f"{at - begin_s:.1f} T", action, does) for at, action, does in sorted(lines) if at >= begin_s - 1e-9]


def documented() -> list[list[tuple[str, str, str]]]:
    """Return the two tables of the monitor's documentation."""
    tables = (monitor.__doc__ or "").split("time     executor begins   monitor\n")[1:]
    cells = [[tuple(re.split(r" {3,}", line.strip())) for line in table.splitlines()] for table in tables]
    return [[row for row in table if len(row) == 3] for table in cells]  # type: ignore[misc]


@pytest.mark.parametrize(("table", "options", "until"), [(0, EARLY, "6.6"), (1, LATE, "6.1")])
def test_the_documented_timelines_are_what_happens(table: int, options: MonitorOptions, until: str) -> None:
    happens = [row for row in lived(options, until) if row[2] != "-" or row[1].endswith(".0")]
    assert documented()[table] == happens
