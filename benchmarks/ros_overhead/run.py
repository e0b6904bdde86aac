"""Measures what ROS costs while the suite streams, and whether it stays well for a long time.

    python benchmarks/ros_overhead/run.py                                  # all parts, 30 minutes of soak
    python benchmarks/ros_overhead/run.py --only latency --latency-minutes 2
    python benchmarks/ros_overhead/run.py --only one_way --latency-minutes 2
    python benchmarks/ros_overhead/run.py --only soak --soak-minutes 30

A part that is not run keeps its numbers in results.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from echo import echo_ms
from overhead import action_overhead_ms, growth_percent, one_way_ms, tick_jitter_ms, transport_ms

from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.demo.command import MODES
from streaming_vla.workbench.demo.driver import Driver, DriverError
from streaming_vla.workbench.demo.simulation import Simulation, driven_simulation
from streaming_vla.workbench.report.records import EpisodeRecord, Scene
from streaming_vla.workbench.report.results import halting, write_json
from streaming_vla.workbench.report.statistics import summarise
from streaming_vla.workbench.robots import ROBOTS

HERE = Path(__file__).parent
PARTS = ("latency", "one_way", "soak")
ONE_WAY_PROFILE = HERE / "network_20ms.yaml"
ACTION = 10  # of a context, whose way is looked at
TIME_LIMIT_S = 20.0
TASKS = ROBOTS["metaworld"].tasks
SAMPLE_PERIOD_S = 5.0
MIB = 2.0**20
MEASURES: dict[str, Callable[[EpisodeRecord], list[float]]] = {
    "executor_jitter": tick_jitter_ms,
    "transport": transport_ms,
    "action_overhead": action_overhead_ms,
}


def main() -> int:
    """Run the parts that are asked for and write results.json and soak.png beside this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="run one part and keep the numbers of the others")
    parser.add_argument("--latency-minutes", type=float, default=2.0)
    parser.add_argument("--soak-minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json and soak.png")
    arguments = parser.parse_args()
    parts = (arguments.only,) if arguments.only else PARTS
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}
    try:
        if "latency" in parts:
            with _streaming() as simulation:
                results |= latency(simulation.driver, 60 * arguments.latency_minutes)
            results["echo_p50_ms"] = summarise(echo_ms()).p50
            print(f"echo: p50 {results['echo_p50_ms']:.2f} ms")
        if "one_way" in parts:
            with _streaming(str(ONE_WAY_PROFILE)) as simulation:
                results["tenth_action_one_way"] = one_way(simulation.driver, 60 * arguments.latency_minutes)
        if "soak" in parts:
            with _streaming() as simulation:
                results |= soak(simulation, 60 * arguments.soak_minutes, arguments.out / "soak.png")
    except DriverError as error:
        print(f"ros_overhead: {error}", file=sys.stderr)
        return 1
    write_json(results, path)
    print(f"Written: {path}")
    return 0


def latency(driver: Driver, duration_s: float) -> dict[str, Any]:
    """Return the overheads of streaming episodes that run for `duration_s` in all."""
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    load: list[float] = []
    psutil.cpu_percent()
    for record in _episodes(driver, duration_s):
        load.append(psutil.cpu_percent())
        for name, measure in MEASURES.items():
            values[name] += measure(record)
    summaries = {name: summarise(found) for name, found in values.items()}
    for name, summary in summaries.items():
        print(f"{name}: p50 {summary.p50:.2f} ms, p99 {summary.p99:.2f} ms of {summary.count}")
    return {
        "executor_jitter_p99_ms": summaries["executor_jitter"].p99,
        "transport_p50_ms": summaries["transport"].p50,
        "action_overhead_p50_ms": summaries["action_overhead"].p50,
        "latency_minutes": duration_s / 60,
        "latency_machine_load_percent": sum(load) / len(load),
        "latency_ms": {name: asdict(summary) for name, summary in summaries.items()},
    }


def one_way(driver: Driver, duration_s: float) -> dict[str, Any]:
    """Return how long after the model made it the tenth action of a context came, behind a network."""
    summary = summarise([ms for record in _episodes(driver, duration_s) for ms in one_way_ms(record, ACTION)])
    print(
        f"action {ACTION} came p50 {summary.p50:.2f} ms, p99 {summary.p99:.2f} ms after it was made, of {summary.count}"
    )
    delay_ms = find_profile(str(ONE_WAY_PROFILE)).transport.median_ms
    return {"delay_ms": delay_ms, "after_model_ms": summary.p50, "distribution": asdict(summary)}


def soak(simulation: Simulation, duration_s: float, plot: Path) -> dict[str, Any]:
    """Stream for `duration_s` and return memory, errors and lost episodes."""
    memory = Memory(simulation)
    for scene in (Scene(task, HELD_OUT_SEED) for task in TASKS):
        # the first visit of a task builds its scene and its renderer, which is no leak
        simulation.driver.run("streaming", scene, TIME_LIMIT_S)
    memory.begin()
    problems: list[str] = []
    episodes = successes = actions = 0
    for record in _episodes(simulation.driver, duration_s, lambda _: memory.sample()):
        episodes += 1
        successes += record.success
        actions += halting(record).executed
        if record.problem or not halting(record).executed:
            problems.append(f"{record.task}, seed {record.seed}: {record.problem or 'no action was executed'}")
        memory.sample()
        print(f"\r{memory.minutes[-1]:5.1f} min, {episodes} episodes, {len(problems)} lost", end="", flush=True)
    print()
    respawns = simulation.respawns()
    growth = {name: growth_percent(values) for name, values in memory.rss_mib.items()}
    memory.plot(plot)
    return {
        "soak_minutes": memory.minutes[-1],
        "soak_rss_growth_percent": max(growth.values()),
        "soak_errors": len(problems) + sum(respawns.values()),
        "soak_lost_episodes": len(problems),
        "soak": {
            "episodes": episodes,
            "successes": successes,
            "actions": actions,
            "problems": problems,
            "respawns": respawns,
            "rss_growth_percent": growth,
            "rss_mib_at_end": {name: values[-1] for name, values in memory.rss_mib.items()},
            "samples": len(memory.minutes),
        },
    }


class Memory:
    """Resident memory of every node over time, at most one sample in SAMPLE_PERIOD_S."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._begin_s = 0.0
        self.minutes: list[float] = []
        self.rss_mib: dict[str, list[float]] = {name: [] for name in simulation.pids()}

    def begin(self) -> None:
        """Start the clock and take the first sample."""
        self._begin_s = time.monotonic()
        self.sample()

    def sample(self) -> None:
        """Take a sample if it is time for one."""
        minutes = (time.monotonic() - self._begin_s) / 60
        if self.minutes and minutes - self.minutes[-1] < SAMPLE_PERIOD_S / 60:
            return
        self.minutes.append(minutes)
        pids = self._simulation.pids()
        for name, values in self.rss_mib.items():
            # a node that is just being started again has no process
            values.append(psutil.Process(pids[name]).memory_info().rss / MIB if name in pids else math.nan)

    def plot(self, path: Path) -> None:
        """Draw one line per node."""
        from matplotlib import pyplot as plt

        figure, axis = plt.subplots(figsize=(10, 4.2), layout="constrained")
        for name, values in self.rss_mib.items():
            axis.plot(self.minutes, values, label=name, lw=1.8)
        axis.set(xlabel="minutes of streaming", ylabel="resident memory, MiB", ylim=(0, None), xlim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right center", frameon=False)
        figure.savefig(path, dpi=160)
        plt.close(figure)


@contextmanager
def _streaming(profile: str = "") -> Iterator[Simulation]:
    logs = Path("out/ros_overhead/logs")
    # spans of different processes are compared: in real time
    with driven_simulation(logs, cameras=(), profile=profile) as simulation:
        for node, values in MODES["streaming"].items():
            simulation.driver.set_parameters(node, values)
        yield simulation


def _episodes(
    driver: Driver, duration_s: float, update: Callable[[EpisodeRecord], None] | None = None
) -> Iterator[EpisodeRecord]:
    """Yield streaming episodes that go on after success, task after task and seed after seed, for `duration_s`."""
    end_s = time.monotonic() + duration_s
    for number in count():
        if time.monotonic() >= end_s:
            return
        round_, place = divmod(number, len(TASKS))
        scene = Scene(TASKS[place], HELD_OUT_SEED + round_)
        yield driver.run("streaming", scene, TIME_LIMIT_S, update, ends_with_success=False)


if __name__ == "__main__":
    sys.exit(main())
