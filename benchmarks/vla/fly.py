"""Flies tiny LeRobot policies in the real ROS graph: how long a robot starves with 300 ms injected for each chunk.

    tools/run python benchmarks/vla/fly.py                # all of them, in the node and through `streaming-vla serve`
    tools/run python benchmarks/vla/fly.py --policy act

What is flown are the golden checkpoints with a chunk of 50 rows at 20 Hz (test/ros/lerobot_flight.py). Figures go into
results.json beside this file; those of other policies, and of run.py, are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "test" / "ros"))

from conftest import Probe  # noqa: E402 (the tests' own probe, stand-in and checkpoints)
from flight import flying  # noqa: E402
from lerobot_flight import STATE, Server, checkpoint, parameters, spec_of  # noqa: E402
from robot_stand_in import RobotStandIn  # noqa: E402
from stalls import StallWitness  # noqa: E402

from streaming_vla.workbench.demo.domain import reserved_domain  # noqa: E402

POLICIES = ("smolvla", "pi0", "pi05", "act")
WAYS = ("direct", "openpi")
FLIGHT_S = 20.0


def main() -> int:
    """Fly what is asked for and write results.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policy", choices=POLICIES, action="append", help="more than once; all unless given")
    parser.add_argument("--way", choices=WAYS, action="append", help="in the node, or through serve; both unless given")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    path = HERE / "results.json"
    for policy in arguments.policy or POLICIES:
        for way in arguments.way or WAYS:
            flown = fly(policy, way)
            print(policy, way, flown, flush=True)
            results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            results.setdefault("starved_s_after_first_chunk", {}).setdefault(policy, {})[way] = flown["starved_s"]
            results.setdefault("flights", {}).setdefault(policy, {})[way] = flown
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def fly(policy: str, way: str) -> dict[str, float]:
    """Fly for FLIGHT_S behind the first chunk.

    Returns:
        starved_s, hand_overs and held_s of that time, and machine_stalled_s: in which nothing on the machine ran.
    """
    with ExitStack() as stack:
        domain = stack.enter_context(reserved_domain())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made, assets = checkpoint(policy, folder / policy)
        spec = spec_of(made, assets)
        if way == "direct":
            own = {} if assets is None else {"model_assets": str(assets)}
            text = parameters(f"lerobot:{made}", spec, folder, **own)
        else:
            server = Server(made, assets, folder / "server.log")
            stack.callback(server.kill)
            text = parameters(f"openpi://127.0.0.1:{server.port}", spec, folder)
        robot, probe = RobotStandIn(domain, STATE, absolute=True), Probe(domain)
        stack.callback(robot.close)
        stack.callback(probe.close)
        flight = stack.enter_context(flying(probe, robot, folder, domain, text))
        flight.begin()
        flight.run(1)
        before, begin_s = flight.newest(), time.time()
        witness = StallWitness()
        stack.callback(witness.close)
        probe.spin(FLIGHT_S)
        after = flight.newest()
        return {
            "starved_s": after.starved_s - before.starved_s,
            "held_s": after.held_s - before.held_s,
            "hand_overs": after.hand_overs - before.hand_overs,
            "machine_stalled_s": round(witness.stalled_s(begin_s, time.time()), 3),
        }


if __name__ == "__main__":
    sys.exit(main())
