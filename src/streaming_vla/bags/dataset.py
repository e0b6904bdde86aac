"""A data set in the format of LeRobot (v2.1) on disk: its layout, and reading it.

The layout is described at github.com/huggingface/lerobot: meta/info.json, meta/episodes.jsonl, meta/tasks.jsonl,
meta/episodes_stats.jsonl, data/chunk-000/episode_000000.parquet, videos/chunk-000/<camera>/episode_000000.mp4.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from streaming_vla.images.encode import encode_pixels, square
from streaming_vla.images.encodings import Pixels

VERSION = "v2.1"
JPEG_QUALITY = 92  # of the arrays for training, as in the demonstrations
DATA = "data/chunk-{chunk:03d}/episode_{number:06d}.parquet"
CAMERA = "observation.images."  # before a camera's name
VIDEO = "videos/chunk-{chunk:03d}/{camera}/episode_{number:06d}.mp4"


class DatasetError(ValueError):
    """A data set cannot be written or read; the message is one sentence."""


@dataclass(frozen=True)
class DatasetFacts:
    """What is the same for all episodes."""

    fps: float
    cameras: tuple[str, ...]
    size: int
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]


def read_facts(folder: Path) -> DatasetFacts:
    """Return what is the same for all episodes of a data set.

    Raises:
        DatasetError: the folder holds no data set of this layout, or no film of a camera.
    """
    information = _read_information(folder)
    features = information["features"]
    films = {name: feature for name, feature in features.items() if feature["dtype"] == "video"}
    try:
        height, width, _ = next(iter(films.values()))["shape"]
        return DatasetFacts(
            float(information["fps"]),
            tuple(name.removeprefix(CAMERA) for name in films),
            min(height, width),
            _names(features["observation.state"]),
            _names(features["action"]),
        )
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise DatasetError(
            f"data set '{folder}' lacks what a policy learns from ({error!r}): expected films, and observation.state "
            "and action as lists of names in meta/info.json"
        ) from error


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a vector's numbers: a list, or lists by what they are of, as in {"motors": [...]}."""
    names = feature["names"]
    listed = [name for group in names.values() for name in group] if isinstance(names, Mapping) else list(names)
    if len(listed) != feature["shape"][0]:
        raise ValueError(f"{len(listed)} names of {feature['shape'][0]} numbers")
    return tuple(map(str, listed))


def read_dataset(folder: Path, size: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the episodes as `training.demonstrations.record_episode` makes them, with their instruction.

    Args:
        size: pictures are brought to [size, size] pixels, as the live observer does; None leaves them as they are.

    Returns:
        state [T, S] float32, action [T, A] float32, jpeg [bytes] uint8 and offset [T, cameras, 2] int64 into it,
        success [1] bool (True: what a robot did is kept), instruction str, cameras tuple.

    Raises:
        DatasetError: the folder holds no data set of this layout, or an episode's files are missing or differ.
    """
    information = _read_information(folder)
    keys = [name for name, feature in information["features"].items() if feature["dtype"] == "video"]
    try:
        lines = (folder / "meta/episodes.jsonl").read_text(encoding="utf-8").splitlines()
        for entry in map(json.loads, lines):
            yield _read_episode(folder, entry, information["chunks_size"], keys, size)
    except (OSError, KeyError, ValueError, av.FFmpegError, pa.ArrowException) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"data set '{folder}' cannot be read ({error}): export it again") from error


def _read_information(folder: Path) -> dict[str, Any]:
    try:
        information: dict[str, Any] = json.loads((folder / "meta/info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"'{folder}' is no LeRobot data set ({error}): expected meta/info.json") from error
    if information.get("codebase_version") != VERSION:
        raise DatasetError(
            f"data set '{folder}' is of version {information.get('codebase_version')}, expected {VERSION}"
        )
    return information


def _read_episode(
    folder: Path, entry: Mapping[str, Any], chunk: int, keys: Sequence[str], size: int | None
) -> dict[str, Any]:
    number = entry["episode_index"]
    place = {"chunk": number // chunk, "number": number}
    table = parquet.read_table(folder / DATA.format(**place))
    state = np.stack(table["observation.state"].to_numpy()).astype(np.float32)
    films = [read_video(folder / VIDEO.format(camera=key, **place)) for key in keys]
    for key, film in zip(keys, films, strict=True):
        if len(film) != len(state):
            raise DatasetError(
                f"episode {number} of '{folder}' has {len(state)} steps, but {len(film)} pictures of {key}"
            )
    blob, offsets = bytearray(), []
    for pictures in zip(*films, strict=True):
        spans = []
        for pixels in pictures:
            data = encode_pixels(pixels if size is None else square(pixels, size), JPEG_QUALITY)
            spans.append((len(blob), len(blob) + len(data)))
            blob += data
        offsets.append(spans)
    return {
        "state": state,
        "action": np.stack(table["action"].to_numpy()).astype(np.float32),
        "jpeg": np.frombuffer(bytes(blob), dtype=np.uint8),
        "offset": np.array(offsets, dtype=np.int64),
        "success": np.array([True]),
        "instruction": entry["tasks"][0],
        "cameras": tuple(key.removeprefix(CAMERA) for key in keys),
    }


def read_video(path: Path) -> list[Pixels]:
    """Return the pictures of a film, [H, W, 3] BGR."""
    with av.open(str(path)) as container:
        return [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in container.decode(video=0)]
