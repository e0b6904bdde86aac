"""Writes what describes a data set: meta/info.json, meta/stats.json, the list of its episodes and our own facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from streaming_vla.datasets import layout
from streaming_vla.datasets.facts import FILM, Camera, DatasetFacts
from streaming_vla.datasets.layout import ACTION, COLUMNS, STATE
from streaming_vla.datasets.rates import fps_number
from streaming_vla.datasets.stats import Statistics

EPISODES_AT_ONCE = 200  # that wait to be written
CHANNELS = ["height", "width", "channels"]


def features(facts: DatasetFacts, columns: Mapping[str, str], film: Mapping[str, Any]) -> dict[str, Any]:
    """Return the features of a data set.

    Args:
        columns: type of each column that every data set has.
        film: what is told of video files.
    """

    def vector(names: Sequence[str]) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [len(names)], "names": list(names)}

    return {
        **{camera.feature: _pictures(camera, facts, film) for camera in facts.cameras},
        STATE: vector(facts.state_names),
        ACTION: vector(facts.action_names),
        **{name: {"dtype": kind, "shape": [1], "names": None} for name, kind in columns.items()},
    }


def _pictures(camera: Camera, facts: DatasetFacts, film: Mapping[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "dtype": camera.stored,
        "shape": [camera.height, camera.width, 3],
        "names": CHANNELS,
    }
    if camera.stored != FILM:
        return about
    size = {"video.height": camera.height, "video.width": camera.width, "video.channels": 3}
    rest = {"video.fps": fps_number(facts.rate), "has_audio": False, "is_depth_map": False}
    return {**about, "info": {**size, **film, **rest}}


def write_information(
    folder: Path, facts: DatasetFacts, described: Mapping[str, Any], episodes: int, frames: int, tasks: int
) -> None:
    """Write meta/info.json."""
    information = {
        "codebase_version": layout.VERSION,
        "fps": fps_number(facts.rate),
        "features": dict(described),
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": layout.FILES_OF_A_CHUNK,
        "data_files_size_in_mb": layout.DATA_FILE_MB,
        "video_files_size_in_mb": layout.VIDEO_FILE_MB,
        "data_path": layout.DATA_PATH,
        "video_path": layout.VIDEO_PATH if any(camera.stored == FILM for camera in facts.cameras) else None,
        "robot_type": facts.robot_type or None,
        "splits": {"train": f"0:{episodes}"},
    }
    write_json(folder / layout.INFO, information)


def write_own(folder: Path, facts: DatasetFacts, sources: Sequence[Mapping[str, Any]]) -> None:
    """Write what the format has no place for: units, which actions are absolute, and where episodes come from."""
    own = {
        "state_units": list(facts.state_units),
        "action_units": list(facts.action_units),
        "action_absolute": list(facts.action_absolute),
        "sources": [dict(source) for source in sources],
    }
    write_json(folder / layout.OWN, own)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


class EpisodeList:
    """Writes meta/episodes, a row for each episode."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def add(self, about: Mapping[str, Any], statistics: Mapping[str, Statistics]) -> None:
        """Append an episode with the statistics of its features."""
        held = {f"stats/{name}/{each}": value for name, found in statistics.items() for each, value in found.items()}
        self._rows.append({**about, **held, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        if len(self._rows) >= EPISODES_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            table = pa.Table.from_pylist(self._rows)
            self._writer = parquet.ParquetWriter(self._path, table.schema)
        else:
            table = pa.Table.from_pylist(self._rows, self._writer.schema)
        self._writer.write_table(table)
        self._rows = []


def data_schema(facts: DatasetFacts, columns: Mapping[str, str]) -> pa.Schema:
    """Return the schema of a data file, with the hint by which the `datasets` package knows pictures."""
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = [camera.feature for camera in facts.cameras if camera.stored != FILM]
    sizes = {STATE: len(facts.state_names), ACTION: len(facts.action_names)}
    hints: dict[str, Any] = {name: {"_type": "Image"} for name in pictures}
    for name, size in sizes.items():
        feature = {"dtype": "float32", "_type": "Value"}
        hints[name] = feature if size == 1 else {"feature": feature, "length": size, "_type": "List"}
    hints.update({name: {"dtype": kind, "_type": "Value"} for name, kind in columns.items()})
    vectors = {name: pa.float32() if size == 1 else pa.list_(pa.float32(), size) for name, size in sizes.items()}
    numbers = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64()}
    return pa.schema(
        [
            *((name, picture) for name in pictures),
            *vectors.items(),
            *((name, numbers[kind]) for name, kind in columns.items()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": hints}})},
    )


def columns_of(longest_s: float) -> dict[str, str]:
    """Return the type of each column that every data set has, where the longest episode is of `longest_s` seconds."""
    return {**COLUMNS, "timestamp": "float64"} if longest_s > layout.LONGEST_FLOAT32_S else dict(COLUMNS)
