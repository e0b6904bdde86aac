"""Measures the SO-101's scripted experts and the simulation itself; writes experts.json.

    tools/run python benchmarks/so101/experts.py

Experts: how many of 50 held-out scenes a task they solve, left alone and disturbed, with Wilson's interval. Simulation:
CPU time of an action period, of an expert's answer and of two pictures (of all threads: what a busy machine does to the
wall clock is not in it), and how fast a clock runs that wants real time, which a busy machine slows down.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from streaming_vla.sim.clock import SimulatedClock
from streaming_vla.sim.so101.cameras import CameraThread
from streaming_vla.sim.so101.disturbance import Disturbance
from streaming_vla.sim.so101.robot import ACTION_PERIOD_S, CONTROL_SUBSTEPS, So101Robot
from streaming_vla.sim.so101.scene import SUBSTEP_S
from streaming_vla.sim.so101.tasks import TASKS, TIME_LIMITS_S
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.report.statistics import wilson_interval

FOLDER = Path(__file__).parent
BURST_PROBABILITY, BURST_SPEED = 0.04, 0.04  # of a disturbance: per action, and rad per action
SIZES = ((640, 480), (320, 240), (224, 224), (128, 128))
TIMED = 60
T = TypeVar("T")


def main(
    episodes: Annotated[int, typer.Option(min=0, help="scenes a task; 0 keeps the counts that are there")] = 50,
    paced_s: Annotated[float, typer.Option(min=0.0, help="how long each paced run takes")] = 10.0,
    output: Annotated[Path, typer.Option()] = FOLDER / "experts.json",
) -> None:
    """Run everything and write the results."""
    results: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    if episodes:
        seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + episodes)
        results["command"] = "tools/run python benchmarks/so101/experts.py"
        results["seeds"] = [seeds.start, seeds.stop]
        results["experts"] = {
            name: {task: count_solved(task, seeds, disturbed) for task in TASKS}
            for name, disturbed in (("expert", False), ("disturbed", True))
        }
    results["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} before timing"
    results["action_cpu_ms"] = time_actions()
    results["two_pictures_cpu_ms"] = {f"{width}x{height}": time_pictures((width, height)) for width, height in SIZES}
    results["paced"] = {f"{width}x{height}": pace((width, height), paced_s) for width, height in SIZES[:2]}
    output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def count_solved(task: str, seeds: range, disturbed: bool) -> dict[str, Any]:
    """Let the expert act in the scenes of `seeds`."""
    robot = So101Robot()
    times = []
    for seed in seeds:
        disturbance = Disturbance(BURST_PROBABILITY if disturbed else 0.0, BURST_SPEED, np.random.default_rng(seed))
        robot.reset(task, seed)
        while not (robot.success or robot.failed) and robot.time_s < TIME_LIMITS_S[task]:
            robot.step(disturbance.apply(robot.expert_action(), robot.setpoint()))
        if robot.success:
            times.append(robot.time_s)
    low, high = wilson_interval(len(times), len(seeds))
    return {
        "success": len(times),
        "episodes": len(seeds),
        "low": round(low, 4),
        "high": round(high, 4),
        "episode_s": round(statistics.median(times), 2) if times else None,
    }


def time_actions() -> dict[str, float]:
    """Return the CPU time of an expert's answer and of the action period that follows, in ms."""
    robot = So101Robot()
    robot.reset("push", HELD_OUT_SEED)
    answers = steps = 0.0
    for _ in range(TIMED):
        action, answer = cpu_ms(robot.expert_action)
        answers += answer
        steps += cpu_ms(lambda: robot.step(action))[1]  # noqa: B023 (called at once)
    return {"expert": round(answers / TIMED, 2), "step": round(steps / TIMED, 2)}


def time_pictures(size: tuple[int, int]) -> float:
    """Return the CPU time of both pictures, in ms."""
    robot = So101Robot(size)
    robot.reset("push", HELD_OUT_SEED)
    robot.observe()  # makes the renderer
    total = sum(cpu_ms(robot.observe)[1] for _ in range(TIMED))
    robot.close()
    return round(total / TIMED, 1)


def cpu_ms(call: Callable[[], T]) -> tuple[T, float]:
    """Return what `call` returns and the CPU time that it took, of all threads, in ms."""
    begin = time.process_time()
    result = call()
    return result, 1e3 * (time.process_time() - begin)


def pace(size: tuple[int, int], seconds: float) -> dict[str, float]:
    """Let the robot run for `seconds` as its node does: real time is wanted, pictures at 30 Hz, time waits for them.

    Returns:
        Simulated seconds per second, pictures of each camera per simulated second, and the latest control tick, ms.
    """
    taken = [0]

    def count(*_: object) -> None:
        taken[0] += 1

    robot = So101Robot(size)
    cameras = CameraThread(count, size)
    robot.reset("push", HELD_OUT_SEED)
    begin_s = now_s = time.monotonic()
    clock = SimulatedClock(CONTROL_SUBSTEPS * SUBSTEP_S, 1.0, now_s)
    next_picture_s, latest_s = 0.0, 0.0
    while now_s < begin_s + seconds:
        now_s = time.monotonic()
        if clock.time_s >= next_picture_s and cameras.take(robot.instant()):
            next_picture_s += ACTION_PERIOD_S
        if clock.time_s >= next_picture_s or not clock.due(now_s):
            time.sleep(0.0005)
            continue
        latest_s = max(latest_s, now_s - clock.when())
        robot.advance(CONTROL_SUBSTEPS)
        clock.passed(time.monotonic())
    cameras.close()
    return {
        "real_time_factor": round(clock.time_s / seconds, 3),
        "pictures_hz": round(taken[0] / clock.time_s, 1),
        "latest_tick_ms": round(1e3 * latest_s, 1),
    }


if __name__ == "__main__":
    typer.run(main)
