"""Speed and memory of a replay: two cameras of 640x480 rgb8 at 30 Hz, bags of two sizes, one core.

    tools/run python benchmarks/bags/replay.py

Each bag is written to a temporary folder and replayed in a process of its own. `speed_vs_real_time` is seconds of the
bag per second of processor time, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from kept import keep

RATE_HZ = 30
SIZES_MB = (100, 1000)
CAMERAS = ("corner2", "gripperPOV")
IMAGE, STATE = "sensor_msgs/msg/Image", "std_msgs/msg/Float64MultiArray"


def write(folder: Path, megabytes: int) -> None:
    """Write a bag of about that size."""
    from streaming_vla.bags.definitions import standard
    from streaming_vla.bags.topics import Topic
    from streaming_vla.bags.writer import BagWriter

    store = standard()
    types = store.types
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    writer = BagWriter(folder)
    kinds = {**{f"/camera/{name}/image": IMAGE for name in CAMERAS}, "/robot_state": STATE}
    topics = {
        name: Topic(name, kind, definition=store.generate_msgdef(kind, ros_version=2)[0], definition_format="ros2msg")
        for name, kind in kinds.items()
    }
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    state = bytes(store.serialize_cdr(types[STATE](layout=layout, data=np.array([0.0, 0.6, 0.2, 1.0])), STATE))
    for step in range(megabytes * 1_000_000 // (len(CAMERAS) * noise.size)):
        now_ns = 1_700_000_000_000_000_000 + step * 1_000_000_000 // RATE_HZ
        stamp = types["builtin_interfaces/msg/Time"](sec=now_ns // 10**9, nanosec=now_ns % 10**9)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
        pixels = np.roll(noise, step, axis=1).reshape(-1)
        image = types[IMAGE](
            header=header, height=480, width=640, encoding="rgb8", is_bigendian=0, step=1920, data=pixels
        )
        data = bytes(store.serialize_cdr(image, IMAGE))
        for name in CAMERAS:
            writer.write(topics[f"/camera/{name}/image"], data, now_ns, now_ns, step / RATE_HZ)
        writer.write(topics["/robot_state"], state, now_ns, now_ns, step / RATE_HZ)
        writer.tick(step / RATE_HZ)
    writer.close(step / RATE_HZ)


def measure(bag: Path) -> dict[str, float]:
    """Replay a bag and return its length, the processor time and the largest memory of this process."""
    from streaming_vla.workbench.replay.run import ReplayJob, replay_all

    job = ReplayJob(instruction="open the drawer")
    replay_all([bag], job)  # imports and the model are loaded once, whatever the bag
    begin_s = time.process_time()
    (found,) = replay_all([bag], job)
    cpu_s = time.process_time() - begin_s
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"seconds": found.duration_s, "cpu_s": cpu_s, "rss_mb": rss_mb}


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    results: dict[str, float] = {}
    for megabytes in SIZES_MB:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / "bag", megabytes)
            command = [sys.executable, __file__, "--measure", str(Path(folder) / "bag")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
        name = "1gb" if megabytes == 1000 else f"{megabytes}mb"
        results[f"rss_mb_{name}"] = round(found["rss_mb"], 1)
        results["speed_vs_real_time"] = round(found["seconds"] / found["cpu_s"], 2)
    keep(results)


if __name__ == "__main__":
    main()
