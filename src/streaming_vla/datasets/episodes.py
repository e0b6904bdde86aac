"""Which episodes a data set has, and where each one's rows and films are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streaming_vla.datasets import layout
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import FILM, DatasetFacts, read_information
from streaming_vla.datasets.tables import read_table
from streaming_vla.datasets.tasks import read_lines


@dataclass(frozen=True)
class FilmPlace:
    """Where an episode lies in a video file; `to_s` is None where the file holds nothing else."""

    path: Path
    from_s: float = 0.0
    to_s: float | None = None


@dataclass(frozen=True)
class EpisodeEntry:
    """An episode as the data set lists it.

    Args:
        tasks: instructions that its frames have.
        first: index of its first row in the whole data set, None where nobody says.
        films: by the name of the camera.
    """

    number: int
    length: int
    tasks: tuple[str, ...]
    path: Path
    first: int | None = None
    films: Mapping[str, FilmPlace] = field(default_factory=dict)


def read_episodes(folder: Path, facts: DatasetFacts) -> list[EpisodeEntry]:
    """Return the listed episodes, in the order of their numbers; numbers may be missing, as of deleted episodes.

    Raises:
        DatasetError: the list is missing or damaged, or a number stands there twice.
    """
    information = read_information(folder)
    make = _old_entries if facts.version == layout.OLD_VERSION else _new_entries
    try:
        entries = sorted(make(folder, information, facts), key=lambda entry: entry.number)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"the episodes of data set '{folder}' cannot be read ({error!r})") from error
    if not entries:
        raise DatasetError(f"data set '{folder}' lists no episode")
    for one, other in itertools.pairwise(entries):
        if one.number == other.number:
            raise DatasetError(f"episode {one.number} of data set '{folder}' is listed twice")
    return entries


def _old_entries(folder: Path, information: Mapping[str, Any], facts: DatasetFacts) -> Iterator[EpisodeEntry]:
    chunk = int(information["chunks_size"])
    for entry in read_lines(folder / layout.OLD_EPISODES):
        number = int(entry["episode_index"])
        place = {"episode_chunk": number // chunk, "episode_index": number}
        films = {
            camera.name: FilmPlace(
                layout.file_path(folder, information["video_path"], video_key=camera.feature, **place)
            )
            for camera in facts.cameras
            if camera.stored == FILM
        }
        path = layout.file_path(folder, information["data_path"], **place)
        yield EpisodeEntry(number, _length(entry["length"]), tuple(map(str, entry["tasks"])), path, None, films)


def _new_entries(folder: Path, information: Mapping[str, Any], facts: DatasetFacts) -> Iterator[EpisodeEntry]:
    filmed = [camera for camera in facts.cameras if camera.stored == FILM]
    names = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
    for camera in filmed:
        names += [f"videos/{camera.feature}/{each}" for each in ("chunk_index", "file_index")]
        names += [f"videos/{camera.feature}/{each}" for each in ("from_timestamp", "to_timestamp")]
    files = sorted((folder / layout.EPISODES).glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"data set '{folder}' has no {layout.EPISODES}/chunk-000/file-000.parquet")
    for file in files:
        rows = read_table(file, "the episodes", names).to_pylist()
        for row in rows:
            films = {}
            for camera in filmed:
                about = {each.rpartition("/")[2]: row[each] for each in names if f"/{camera.feature}/" in each}
                place = {key: int(about[key]) for key in ("chunk_index", "file_index")}
                path = layout.file_path(folder, information["video_path"], video_key=camera.feature, **place)
                films[camera.name] = FilmPlace(path, float(about["from_timestamp"]), float(about["to_timestamp"]))
            place = {key: int(row[f"data/{key}"]) for key in ("chunk_index", "file_index")}
            yield EpisodeEntry(
                int(row["episode_index"]),
                _length(row["length"]),
                tuple(map(str, row["tasks"])),
                layout.file_path(folder, information["data_path"], **place),
                int(row["dataset_from_index"]),
                films,
            )


def _length(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"an episode has {value!r} steps")
    return value
