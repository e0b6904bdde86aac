"""Measures what `streaming-vla export` writes: exactness, colours, times, speed, memory, and what lerobot reads of it.

    OMP_NUM_THREADS=1 tools/run python benchmarks/datasets/measure.py --photographs FOLDER [--lerobot PYTHON]

FOLDER holds photographs (.jpg). PYTHON is an interpreter that has lerobot (see README.md); without it that part of
results.json stays as it is. Everything else is made in a temporary folder, which needs twice the size of the bags.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from robot_bags import Views, photographs, write

from streaming_vla.bags.export import ExportOptions
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.films import film_times
from streaming_vla.datasets.parts import Storage
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.parameters.sections import EVERY_NODE
from streaming_vla.workbench.export.options import export_options
from streaming_vla.workbench.export.run import export_all

HERE = Path(__file__).resolve().parent
HEIGHT, WIDTH = 480, 640
HZ = 30.0
BAGS = 5
RATES = {"30": Fraction(30), "29.97": Fraction(30000, 1001)}
HOUR_S = 3600.0
COMMAND = "OMP_NUM_THREADS=1 tools/run python benchmarks/datasets/measure.py --photographs FOLDER --lerobot PYTHON"


def options(cameras: tuple[str, ...], period_s: float, storage: Storage) -> ExportOptions:
    """Return the options of the made-up robot."""
    layout = {"action_names": ("a", "b", "c"), "action_absolute": (True,) * 3, "action_low": (-10.0,) * 3,
              "action_high": (10.0,) * 3, "action_initial": (0.0,) * 3, "scale": (1.0,) * 3,
              "maximum_lead": (1.0,) * 3, "keep_when_stopped": (False,) * 3, "control_period_s": period_s}  # fmt: skip
    layout |= {"velocity_limit": (20.0,) * 3, "jump_limit": (20.0,) * 3}
    topics = tuple(f"camera/{name}/image" for name in cameras)
    observer = {"cameras": cameras, "camera_topics": topics, "robot_state_topic": "robot_state"}
    suite = SuiteOptions().changed(EVERY_NODE, layout).changed("observer", observer)
    return export_options(suite, storage=storage)


def round_trip(folder: Path, pictures: list[Any]) -> dict[str, Any]:
    """Return how far what our reader gives is from what was in the bag; with a film, and with PNG."""
    views = Views(pictures, HEIGHT, WIDTH)
    write(folder / "bag", 20.0, HZ, views)
    random = np.random.default_rng(1)
    numbers = np.stack([random.normal(size=3) for _ in range(600)])
    found: dict[str, Any] = {}
    for storage in Storage:
        out = folder / f"set_{storage.value}"
        export_all([folder / "bag"], out, options(("front", "wrist"), 0.033333, storage))
        with Dataset(out) as data:
            (entry,) = data.entries
            episode = data.episode(entry)
            # which steps of the bag these are: its states are all different
            first = int(np.argmin(np.abs(numbers - episode.state[0]).sum(axis=1)))
            there = numbers[first : first + len(episode)]
            told = numbers[first + 1 : first + 1 + len(episode)] + 1.0
            error = max(
                float(np.abs(episode.state - there.astype(np.float32)).max()),
                float(np.abs(episode.action - told.astype(np.float32)).max()),
            )
            sums, absolute, count = np.zeros(3), 0.0, 0
            for number, camera in enumerate(("front", "wrist")):
                for step, pixels in enumerate(data.pictures(episode, camera)):
                    difference = pixels.astype(np.int16) - views(first + step, number)
                    sums += difference.mean(axis=(0, 1))
                    absolute += float(np.abs(difference).mean())
                    count += 1
            colours = sums / count
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            found[storage.value] = {
                "numbers_max_error": error,
                "film_mean_error": float(np.abs(colours).max()),
                "film_mean_error_bgr": colours.round(4).tolist(),
                "film_mean_absolute_error": absolute / count,
                "steps": len(episode),
                "kb_per_picture": size / 1000 / (2 * len(episode)),
            }
    return found


def episodes(folder: Path, pictures: list[Any]) -> str:
    """Write a set of several episodes and tasks, whose films are put together, and return its name."""
    bags = [folder / f"episode{number}" for number in range(6)]
    for number, bag in enumerate(bags):
        write(bag, 2.0 + number, HZ, Views(pictures, HEIGHT, WIDTH), task=("look around", "look again")[number % 2])
    export_all(bags, folder / "set_episodes", options(("front", "wrist"), 0.033333, Storage.film))
    return "set_episodes"


def times(folder: Path) -> dict[str, float]:
    """Return the largest difference, s, of table, film and our reader in an hour, in one episode of that length."""
    small = np.zeros((7, 32, 32, 3), np.uint8) + 30 * np.arange(7, dtype=np.uint8)[:, None, None, None]
    worst = {}
    for name, rate in RATES.items():
        bag, out = folder / f"hour_{name}", folder / f"set_hour_{name}"
        write(bag, HOUR_S, float(rate), lambda step, _: small[step % 7], ("front",))
        period_s = round(float(1 / rate), 7)
        export_all([bag], out, options(("front",), period_s, Storage.film))
        with Dataset(out) as data:
            assert data.facts.rate == rate and len(data.entries) == 1
            episode = data.episode(data.entries[0])
            due = np.arange(len(episode)) * float(1 / rate)
            shown = np.array(film_times(data.entries[0].films["front"].path))
            worst[name] = max(
                float(np.abs(shown - due).max()),
                float(np.abs(episode.timestamp - due).max()),
                float(np.abs(episode.timestamp - shown).max()),
                abs(HOUR_S * float(rate) / data.facts.fps - HOUR_S),
            )
    return worst


def speed(folder: Path, pictures: list[Any], gigabytes: float) -> dict[str, float]:
    """Return seconds of recording per second of processor time, and the largest memory, on one core."""
    seconds = gigabytes * 1e9 / (2 * HEIGHT * WIDTH * 3 * HZ) / BAGS
    for number in range(BAGS):
        write(folder / f"speed{number}", seconds, HZ, Views(pictures, HEIGHT, WIDTH))
    size = sum(path.stat().st_size for path in folder.glob("speed*/*"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--export", str(folder)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    return {"bags_gb": size / 1e9, "seconds": seconds * BAGS, **measured}


def export_measured(folder: Path) -> None:
    """Export the bags of `speed` in this process, pinned to one core, and print what it took."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    bags = sorted(folder.glob("speed*"))
    given = options(("front", "wrist"), 0.033333, Storage.film)
    begin_s, wall_s = time.process_time(), time.monotonic()
    done = export_all(bags, folder / "set_speed", given)
    cpu_s, wall_s = time.process_time() - begin_s, time.monotonic() - wall_s
    status = Path("/proc/self/status").read_text()  # what getrusage tells was partly of the process before
    rss_mb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1000
    print(json.dumps({"export_speed_vs_real_time": done.seconds / cpu_s, "cpu_s": cpu_s, "wall_s": wall_s,
                      "export_rss_mb": rss_mb, "episodes": done.episodes}))  # fmt: skip


def truth(folder: Path, names: list[str]) -> Path:
    """Write some steps of the sets as our reader gives them, for `lerobot_reads.py`."""
    held = {}
    for name in names:
        steps = []
        with Dataset(folder / name) as data:
            for entry in data.entries:
                episode = data.episode(entry)
                said = data.instructions(episode)
                chosen = np.unique(np.linspace(0, len(episode) - 1, 60).astype(int)).tolist()
                shown = {
                    camera.name: list(data.pictures(episode, camera.name, chosen)) for camera in data.facts.cameras
                }
                for place, step in enumerate(chosen):
                    window = np.minimum(step + np.arange(8), len(episode) - 1)
                    pictures = {
                        camera: each[place][::16, ::16, ::-1].transpose(2, 0, 1).tolist()
                        for camera, each in shown.items()
                    }
                    steps.append({"index": int(episode.index[step]), "state": episode.state[step].tolist(),
                                  "action": episode.action[window].tolist(), "time_s": float(episode.timestamp[step]),
                                  "task": said[step], "pictures": pictures})  # fmt: skip
        held[name] = {"steps": steps}
    path = folder / "truth.json"
    path.write_text(json.dumps(held))
    return path


def ask_lerobot(python: Path, folder: Path, names: list[str]) -> Any:
    """Return what lerobot reads of the sets."""
    command = [str(python), str(HERE / "lerobot_reads.py"), str(truth(folder, names))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    command += [str(folder / name) for name in names]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"version": None, "answer": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="folder of .jpg")
    parser.add_argument("--lerobot", type=Path, help="Python that has lerobot")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the bags that are timed")
    parser.add_argument("--folder", type=Path, help="for bags and sets; default: a temporary one")
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.export is not None:
        export_measured(given.export)
        return
    if given.photographs is None:
        parser.error("--photographs is needed")
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        pictures = photographs(given.photographs, HEIGHT, WIDTH)
        results["command"] = (
            "OMP_NUM_THREADS=1 tools/run python benchmarks/datasets/measure.py --photographs FOLDER --lerobot PYTHON"
        )
        storages = round_trip(folder, pictures)
        results["round_trip_max_error"] = max(each["numbers_max_error"] for each in storages.values())
        results["film_mean_error"] = storages["film"]["film_mean_error"]
        results["pictures"] = storages
        worst = times(folder)
        results["time_error_s_hour"] = max(worst.values())
        results["time_error_s_hour_by_rate"] = worst
        if given.lerobot is not None:
            names = [f"set_{storage.value}" for storage in Storage] + [f"set_hour_{name}" for name in RATES]
            names.append(episodes(folder, pictures))
            results["lerobot_reads"] = ask_lerobot(given.lerobot, folder, names)
        measured = speed(folder, pictures, given.gigabytes)
        results.update({name: measured[name] for name in ("export_speed_vs_real_time", "export_rss_mb")})
        results["export"] = measured
        path.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
