"""The stream on a busy machine, and for a long time with live changes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conductor import NODES, Conductor
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters

from streaming_vla.machines.events import Mode

HOG = "while True: pass"
SETTLE_S = 3.0
EPISODE_S = 20.0
LIVE = (  # node, parameter, least and largest value
    ("executor", "hold_s", 1.0, 3.0),
    ("executor", "max_action_age_s", 1.0, 3.0),
    ("generator", "generate_timeout_s", 0.4, 1.0),
    ("saliency_monitor", "max_silence_s", 1.0, 3.0),
    ("observer", "max_skew_s", 0.08, 0.2),
)


@contextmanager
def hogs(count: int) -> Iterator[None]:
    """Let so many processes keep a core busy each."""
    running = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def busy(conductor: Conductor, seconds: float, count: int) -> dict[str, float]:
    """Stream beside `count` busy processes; return the share of time that was starved, and what else faltered."""
    with hogs(count):
        conductor.reset_robot()
        errors = 0 if conductor.begin_episode() else 1
        time.sleep(SETTLE_S)
        starved_s, streamed_s = 0.0, 0.0
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            first, begun_s = conductor.states[-1][1], time.monotonic()
            conductor.wait(lambda: conductor.mode == Mode.ERROR, min(EPISODE_S, end_s - begun_s))
            last = conductor.states[-1][1]
            streamed_s += time.monotonic() - begun_s
            starved_s += last.starved_s - first.starved_s
            if conductor.mode == Mode.ERROR:
                errors += 1
                conductor.end_episode()
                conductor.begin_episode()
        figures = conductor.figures
        conductor.end_episode()
    executor, robot = figures.get("executor", {}), figures.get("sim_robot", {})
    return {
        "hogs": count,
        "seconds": streamed_s,
        "starved_share": starved_s / streamed_s,
        "errors": errors,
        "tick_late_p99_ms": float(executor.get("tick_late_p99_ms", "nan")),
        "achieved_real_time_factor": float(robot.get("achieved_real_time_factor", "nan")),
    }


def soak(conductor: Conductor, minutes: float, seed: int) -> dict[str, Any]:
    """Stream for so long while live parameters change; return errors and the growth of memory."""
    draw = random.Random(seed)
    setters = {name: conductor.node.create_client(SetParameters, f"{name}/set_parameters") for name in NODES}
    respawns = sum(conductor.suite.respawns(name) for name in NODES)
    end_s, errors, changes = time.monotonic() + 60.0 * minutes, 0, 0
    begin_mb: dict[str, float] = {}
    while time.monotonic() < end_s and not conductor.suite.failure:
        conductor.reset_robot()
        if not conductor.begin_episode():
            errors += 1
            continue
        begin_mb = begin_mb or conductor.rss_mb()
        until_s = min(end_s, time.monotonic() + EPISODE_S)
        while time.monotonic() < until_s and conductor.mode != Mode.ERROR:
            node, name, low, high = draw.choice(LIVE)
            value = ParameterValue(type=3, double_value=draw.uniform(low, high))
            answer = setters[node].call_async(SetParameters.Request(parameters=[Parameter(name=name, value=value)]))
            conductor.wait(answer.done, 5.0)
            errors += not (answer.done() and answer.result().results[0].successful)
            changes += 1
            time.sleep(1.0)
        errors += conductor.mode == Mode.ERROR
        conductor.end_episode()
    end_mb = conductor.rss_mb()
    return {
        "soak_minutes": minutes,
        "soak_errors": errors + sum(conductor.suite.respawns(name) for name in NODES) - respawns,
        "soak_changes": changes,
        "soak_rss_growth_percent": max(100.0 * (end_mb[name] / begin_mb[name] - 1.0) for name in NODES),
    }
