"""Records episodes of the simulated robot as a bag, for the replay benchmarks.

tools/run python benchmarks/bags/record_demo.py BAG --task drawer-open --episodes 2 --mode streaming
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from streaming_vla.sim.tasks import HELD_OUT_SEED
from streaming_vla.workbench.demo.command import MODES
from streaming_vla.workbench.demo.simulation import driven_simulation
from streaming_vla.workbench.report.records import Scene

SETTLE_S = 10.0  # on a busy machine the recorder takes so long to find the topics
TIME_LIMIT_S = 12.0


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--task", action="append")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--mode", choices=sorted(MODES), default="streaming")
    options = parser.parse_args()
    tasks = options.task or ["drawer-open"]
    scenes = [Scene(task, HELD_OUT_SEED + number) for task in tasks for number in range(options.episodes)]
    with driven_simulation(options.bag.parent / "logs", cameras=()) as simulation:
        command = [sys.executable, "-m", "streaming_vla", "record", "--raw", "--out", str(options.bag)]
        with subprocess.Popen(command) as recorder:
            try:
                while not options.bag.exists() and recorder.poll() is None:
                    simulation.driver.spin(0.5)
                simulation.driver.spin(SETTLE_S)
                for node, values in MODES[options.mode].items():
                    simulation.driver.set_parameters(node, values)
                for scene in scenes:
                    record = simulation.driver.run(options.mode, scene, TIME_LIMIT_S)
                    print(f"{scene.task} {scene.seed}: success {record.success}, {record.duration_s:.1f} s", flush=True)
                simulation.driver.spin(1.0)
            finally:
                recorder.terminate()  # else leaving the block would wait for it for ever


if __name__ == "__main__":
    main()
