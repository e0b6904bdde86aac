"""Where the files of a data set are, and what its columns are called.

Version 3.0 (lerobot 0.4 and later) puts many episodes into one file, 2.1 has a file for each; both are described at
github.com/huggingface/lerobot. The paths of data and films are patterns in meta/info.json.
"""

from __future__ import annotations

import re
from pathlib import Path

from streaming_vla.datasets.errors import DatasetError

VERSION = "v3.0"
OLD_VERSION = "v2.1"
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes"  # a folder of parquet files
OWN = "meta/streaming_vla.json"  # facts that the format has no place for
CHUNK_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{CHUNK_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{CHUNK_FILE}.mp4"
EPISODES_PATH = f"{EPISODES}/{CHUNK_FILE}.parquet"
OLD_TASKS = "meta/tasks.jsonl"
OLD_EPISODES = "meta/episodes.jsonl"
OLD_STATS = "meta/episodes_stats.jsonl"

STATE, ACTION = "observation.state", "action"
CAMERA = "observation.images."  # before a camera's name
COLUMNS = {  # of every data set, beside its features; their types
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
FILES_OF_A_CHUNK = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
LONGEST_FILM_S = 1000.0
"""A film of several episodes is not longer: lerobot compares times as 32 bit floats, which from 1024 s on are further
apart than the 1e-4 s that it allows."""
LONGEST_FLOAT32_S = 2048.0  # time stamps of longer episodes are off by more than 1e-4 s as 32 bit floats

_FIELDS = re.compile(r"\{(chunk_index|file_index|episode_chunk|episode_index|video_key)(:0?\d{1,2}d)?\}")


def file_path(folder: Path, pattern: str, **fields: int | str) -> Path:
    """Return the file that a pattern of meta/info.json stands for.

    Raises:
        DatasetError: the pattern has fields that no data set has, or leads out of the folder.
    """
    if "{" in _FIELDS.sub("", pattern) or "}" in _FIELDS.sub("", pattern):
        raise DatasetError(f"the path '{pattern}' in {folder / INFO} has fields that are not known: see the format")
    try:
        found = pattern.format(**fields)
    except (KeyError, ValueError, IndexError) as error:
        raise DatasetError(f"the path '{pattern}' in {folder / INFO} cannot be used: {error}") from error
    path = Path(found)
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"the path '{pattern}' in {folder / INFO} leads out of the data set")
    return folder / path
