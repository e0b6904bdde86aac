"""What lerobot itself reads of data sets that we wrote, beside what our reader reads. Runs in lerobot's environment.

    python benchmarks/datasets/lerobot_reads.py TRUTH.json SET...

TRUTH.json holds, by set, some steps as our reader gives them (`measure.py` writes it). Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

WINDOW = 8  # actions from each step on


def compare(folder: str, truth: dict) -> dict:
    """Return how far lerobot's answer is from our reader's."""
    first = LeRobotDataset("local/set", root=folder, video_backend="pyav")
    windows = {"action": [step / first.fps for step in range(WINDOW)]}
    data = LeRobotDataset("local/set", root=folder, video_backend="pyav", delta_timestamps=windows)
    worst = {"state": 0.0, "action": 0.0, "picture": 0.0, "time_s": 0.0}
    same_tasks = True
    for each in truth["steps"]:
        item = data[each["index"]]
        worst["state"] = max(worst["state"], float(np.abs(item["observation.state"].numpy() - each["state"]).max()))
        worst["action"] = max(worst["action"], float(np.abs(item["action"].numpy() - each["action"]).max()))
        worst["time_s"] = max(worst["time_s"], abs(float(item["timestamp"]) - each["time_s"]))
        same_tasks &= item["task"] == each["task"]
        for name, rows in each["pictures"].items():
            shown = item[f"observation.images.{name}"].numpy()[:, ::16, ::16] * 255.0
            worst["picture"] = max(worst["picture"], float(np.abs(shown - np.array(rows)).max()))
    return {
        "frames": len(data),
        "episodes": data.num_episodes,
        "steps_compared": len(truth["steps"]),
        "largest_difference": worst,
        "same_tasks": bool(same_tasks),
        "statistics": sorted(data.meta.stats["action"]),
    }


def main() -> None:
    """Entry point of the script."""
    truth = json.loads(Path(sys.argv[1]).read_text())
    answers = {Path(folder).name: compare(folder, truth[Path(folder).name]) for folder in sys.argv[2:]}
    print(json.dumps({"version": version("lerobot"), "answer": answers}))


if __name__ == "__main__":
    main()
