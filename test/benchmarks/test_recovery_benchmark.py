"""What benchmarks/recovery makes of the executor's states and of its events."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("streaming_vla_interfaces", reason="the ROS interfaces are not built: run make setup")

from deaths import _plays_since
from recovery_figures import summary
from streaming_vla_interfaces.msg import ExecutionState

PLAYING, HOLD, WAITING = ExecutionState.MODE_PLAYING, ExecutionState.MODE_HOLD, ExecutionState.MODE_WAITING


def states(*said: tuple[float, int]) -> list[tuple[float, Any]]:
    return [(at, ExecutionState(mode=mode)) for at, mode in said]


@pytest.mark.parametrize(
    ("said", "since_s"),
    [
        ([(10.05, PLAYING), (10.1, PLAYING)], 10.0),  # the stream was never interrupted
        ([(10.05, PLAYING), (10.1, HOLD), (12.0, HOLD)], None),
        ([(10.05, PLAYING), (10.1, HOLD), (12.0, PLAYING), (12.05, PLAYING)], 12.0),
        ([(10.05, PLAYING), (13.0, WAITING), (13.2, PLAYING)], 13.2),  # another executor
        ([(10.05, PLAYING), (13.0, PLAYING)], 13.0),  # nobody commanded in between
    ],
)
def test_since_when_the_robot_moves_again(said: list[tuple[float, int]], since_s: float | None) -> None:
    assert _plays_since(states(*said), 10.0) == since_s


def test_events_become_the_figures_of_each_node() -> None:
    event = {"node": "generator", "kind": "kill", "recovered": True, "hold_s": 0.02, "error_lines": 0,
             "recovered_lines": 1, "simulation_pace": 1.0}  # fmt: skip
    lost = event | {"recovered": False, "back_s": None, "recovered_lines": 0, "hold_s": None}
    events = [
        event | {"back_s": 2.0, "steps_s": {"detected": 0.1, "active": 1.5}},
        event | {"back_s": 3.0, "steps_s": {"detected": 0.2, "active": 1.0}, "hold_s": 0.04},
        lost,
    ]
    found = summary(events)
    assert set(found) == {"generator", "breakdown_s"}
    kill = found["generator"]["kill"]
    assert (kill["times"], kill["recovered"], kill["said"]) == (3, 2, 2)
    assert (kill["hold_s_p50"], kill["hold_s_max"]) == (0.03, 0.04)
    assert (kill["back_s_p50"], kill["back_s_max"]) == (2.5, 3.0)
    assert found["breakdown_s"]["generator"] == {"detected": 0.15, "active": 1.25}
