"""Kills and stops nodes in random phases of an episode, and what becomes of the motion."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

from conductor import Conductor
from stamped_node import MARK

from streaming_vla.machines.events import Mode

CONTROL_PERIOD_S = 0.05
PHASE_S = (0.3, 3.0)  # of an episode that plays
PLAYS_AGAIN_S = 1.0  # so long without a hold, and the motion is back
WAIT_S = 30.0
WAIT_FOR_INFERENCE_S = 120.0
STEPS = ("detected", "process", "python", "imported", "made", "configured", "active", "said", "first_action")


def run_fault(conductor: Conductor, node: str, kind: str, stop_s: float, draw: random.Random) -> dict[str, Any]:
    """Kill (`kind` kill) or stop for `stop_s` (`kind` stop) a node in an episode of its own; return what happened.

    Raises:
        RuntimeError: no episode plays before the fault.
    """
    conductor.suite.wait_up(WAIT_FOR_INFERENCE_S)
    if not conductor.begin_episode():
        raise RuntimeError(f"no episode plays before the fault of {node}: {conductor.suite.failure or conductor.mode}")
    phase_s = draw.uniform(*PHASE_S)
    time.sleep(phase_s)
    fault_s, line = time.monotonic(), len(conductor.lines)
    pid = conductor.suite.node_process(node).pid
    os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    if kind == "stop":
        time.sleep(stop_s)
        os.kill(pid, signal.SIGCONT)
    back = _wait_back(conductor, node, fault_s, stop_s if kind == "stop" else 0.0)
    time.sleep(0.2)  # lines on their way
    lines = conductor.lines[line:]
    row = {
        "node": node,
        "kind": kind,
        "phase_s": round(phase_s, 3),
        "hold_s": None if node == "executor" else _hold_s(conductor, fault_s),
        "back_s": back,
        "recovered": back is not None,
        "simulation_pace": conductor.simulation_pace,
        "error_lines": sum("[ERROR]" in said for _, said in lines),
        "recovered_lines": sum("recovered" in said for _, said in lines),
    }
    if back is None:
        row["lines"] = [f"{at - fault_s:.2f} {said}" for at, said in lines if MARK not in said]
    if kind == "kill" and back is not None:
        row["steps_s"] = _steps(conductor, node, fault_s, back, lines)
    conductor.end_episode()
    return row


def _wait_back(conductor: Conductor, node: str, fault_s: float, stop_s: float) -> float | None:
    """Return seconds from the fault to the first action after the last hold, 0 without a hold; None: it never came."""
    deadline_s = fault_s + (WAIT_FOR_INFERENCE_S if node == "inference" else WAIT_S)
    respawns = conductor.suite.respawns(node)
    while time.monotonic() < deadline_s and not conductor.suite.failure:
        time.sleep(0.02)
        now = time.monotonic()
        states = [(at, state) for at, state in conductor.states if at > fault_s]
        if any(state.mode == Mode.ERROR for _, state in states):
            return None
        up = conductor.suite.is_up and (stop_s > 0.0 or conductor.suite.respawns(node) > respawns)
        if now < fault_s + stop_s + PLAYS_AGAIN_S or not up or not states:
            continue
        since_s = _plays_since(states, fault_s)
        if since_s is not None and now - since_s >= PLAYS_AGAIN_S and states[-1][0] > now - 0.6:
            return 0.0 if since_s == fault_s else since_s - fault_s
    return None


def _plays_since(states: list[tuple[float, Any]], fault_s: float) -> float | None:
    """Return since when every state is one of playing, without a gap between actions; `fault_s` when there was none."""
    since_s: float | None = fault_s
    before_s = fault_s
    for at, state in states:
        if state.mode != Mode.PLAYING:
            since_s = None
        elif since_s is None or at - before_s > 4 * CONTROL_PERIOD_S:
            since_s = at
        before_s = at
    return since_s


def _hold_s(conductor: Conductor, fault_s: float) -> float | None:
    """Return seconds from the end of the last action before the first hold to that hold; None without one."""
    begun_s = None
    for at, state in conductor.states:
        if state.mode == Mode.PLAYING:
            begun_s = at
        elif state.mode == Mode.HOLD and at > fault_s and begun_s is not None:
            return max(0.0, at - begun_s - CONTROL_PERIOD_S)
    return None


def _steps(
    conductor: Conductor, node: str, fault_s: float, back_s: float, lines: list[tuple[float, str]]
) -> dict[str, float]:
    """Return how long each step of the way back took, by its name, seconds."""
    at: dict[str, float] = {}
    for heard_s, line in lines:
        if line.startswith(f"[{node}] {MARK} "):
            _, step, value = line.split("] ", 1)[1].split()
            at[step] = float(value)
        elif f"'{node}'" in line and "respawned in" in line:
            at["detected"] = heard_s
    at["said"] = next((heard_s for heard_s in conductor.said[node] if heard_s >= at.get("active", fault_s)), 0.0)
    at["first_action"] = max(fault_s + back_s, at["said"])
    found, before_s = {}, fault_s
    for step in STEPS:
        if at.get(step):
            found[step] = round(max(0.0, at[step] - before_s), 3)
            before_s = max(before_s, at[step])
    return found
