"""Writes episodes from bags as a data set in the format of LeRobot (v2.1): parquet for numbers, one MP4 per camera."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from streaming_vla.bags.dataset import CAMERA, DATA, VERSION, VIDEO, DatasetError, DatasetFacts
from streaming_vla.bags.steps import EpisodeSteps
from streaming_vla.images.encodings import Pixels

CHUNK = 1000  # episodes of a folder
CODEC, PIXEL_FORMAT, QUALITY = "libx264", "yuv420p", "18"  # crf 18 looks like the original
KEY_FRAME_EVERY = 2  # training reads frames in any order


def write_dataset(folder: Path, episodes: Iterable[EpisodeSteps], facts: DatasetFacts) -> int:
    """Write `episodes` into a new data set and return how many there were; after an error nothing is left of it.

    Raises:
        DatasetError: the folder exists, no episode came, or one has other sizes than `facts`.
    """
    if folder.exists():
        raise DatasetError(f"data set '{folder}' exists already: choose another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        count = _write(partial, episodes, facts)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return count


def write_video(path: Path, pictures: Sequence[Pixels], fps: float) -> None:
    """Write [H, W, 3] BGR pictures as H.264; H and W are even."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w") as container:
        options = {"crf": QUALITY, "g": str(KEY_FRAME_EVERY)}
        stream: Any = container.add_stream(CODEC, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = PIXEL_FORMAT
        for pixels in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="bgr24")))
        container.mux(stream.encode())


def _write(folder: Path, episodes: Iterable[EpisodeSteps], facts: DatasetFacts) -> int:
    tasks: dict[str, int] = {}
    lengths: list[int] = []
    (folder / "meta").mkdir(parents=True)
    with (
        (folder / "meta/episodes.jsonl").open("w") as listed,
        (folder / "meta/episodes_stats.jsonl").open("w") as stats,
    ):
        for number, episode in enumerate(episodes):
            task = tasks.setdefault(episode.instruction, len(tasks))
            summary = _write_episode(folder, episode, number, task, sum(lengths), facts)
            lengths.append(len(episode))
            print(
                json.dumps({"episode_index": number, "tasks": [episode.instruction], "length": len(episode)}),
                file=listed,
            )
            print(json.dumps({"episode_index": number, "stats": summary}), file=stats)
    if not lengths:
        raise DatasetError("the bags hold no episode: pictures, state and actions must be there at the same time")
    with (folder / "meta/tasks.jsonl").open("w") as file:
        for instruction, task in tasks.items():
            print(json.dumps({"task_index": task, "task": instruction}), file=file)
    information = _information(facts, lengths, len(tasks))
    (folder / "meta/info.json").write_text(json.dumps(information, indent=2) + "\n", encoding="utf-8")
    return len(lengths)


def _write_episode(
    folder: Path, episode: EpisodeSteps, number: int, task: int, first: int, facts: DatasetFacts
) -> dict[str, Any]:
    """Write one episode and return its statistics."""
    count = len(episode)
    state, action = np.stack(episode.state), np.stack(episode.action)
    for name, array, names in (("state", state, facts.state_names), ("action", action, facts.action_names)):
        if array.shape[1] != len(names):
            raise DatasetError(f"episode {number}: {name} has {array.shape[1]} numbers, expected {', '.join(names)}")
    columns: Mapping[str, npt.NDArray[Any]] = {
        "timestamp": (np.arange(count) / facts.fps).astype(np.float32),
        "frame_index": np.arange(count),
        "episode_index": np.full(count, number),
        "index": first + np.arange(count),
        "task_index": np.full(count, task),
    }
    table = pa.table(
        {
            "observation.state": pa.FixedSizeListArray.from_arrays(state.reshape(-1), state.shape[1]),
            "action": pa.FixedSizeListArray.from_arrays(action.reshape(-1), action.shape[1]),
            **{name: pa.array(column) for name, column in columns.items()},
        }
    )
    place = {"chunk": number // CHUNK, "number": number}
    path = folder / DATA.format(**place)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    stats = {
        name: _statistics(array) for name, array in {"observation.state": state, "action": action, **columns}.items()
    }
    for camera, pictures in episode.pictures.items():
        key = CAMERA + camera
        write_video(folder / VIDEO.format(camera=key, **place), pictures, facts.fps)
        stats[key] = _picture_statistics(pictures)
    return stats


def _statistics(array: npt.NDArray[Any]) -> dict[str, Any]:
    values = array.astype(np.float64).reshape(len(array), -1)
    return {
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "mean": values.mean(axis=0).tolist(),
        "std": values.std(axis=0).tolist(),
        "count": [len(values)],
    }


def _picture_statistics(pictures: Sequence[Pixels]) -> dict[str, Any]:
    """Return statistics per channel (RGB, 0 to 1) over at most 20 small pictures, [3, 1, 1]."""
    chosen = pictures[:: max(1, len(pictures) // 20)]
    small = (
        np.stack([cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA)[..., ::-1] for pixels in chosen]) / 255.0
    )
    shaped = {
        name: getattr(small, name)(axis=(0, 1, 2)).reshape(3, 1, 1).tolist() for name in ("min", "max", "mean", "std")
    }
    return {**shaped, "count": [len(chosen)]}


def _information(facts: DatasetFacts, lengths: Sequence[int], tasks: int) -> dict[str, Any]:
    def numbers(names: tuple[str, ...]) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [len(names)], "names": list(names)}

    def whole(kind: str) -> dict[str, Any]:
        return {"dtype": kind, "shape": [1], "names": None}

    video = {
        "dtype": "video",
        "shape": [facts.size, facts.size, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.fps": facts.fps,
            "video.codec": "h264",
            "video.pix_fmt": PIXEL_FORMAT,
            "video.is_depth_map": False,
            "has_audio": False,
        },
    }
    count = len(lengths)
    return {
        "codebase_version": VERSION,
        "robot_type": "unknown",
        "total_episodes": count,
        "total_frames": sum(lengths),
        "total_tasks": tasks,
        "total_videos": count * len(facts.cameras),
        "total_chunks": (count - 1) // CHUNK + 1,
        "chunks_size": CHUNK,
        "fps": facts.fps,
        "splits": {"train": f"0:{count}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.state": numbers(facts.state_names),
            "action": numbers(facts.action_names),
            **{CAMERA + camera: video for camera in facts.cameras},
            "timestamp": whole("float32"),
            **{name: whole("int64") for name in ("frame_index", "episode_index", "index", "task_index")},
        },
    }
