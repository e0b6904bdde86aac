"""Puts parts together into a data set (v3.0)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from streaming_vla.datasets import layout
from streaming_vla.datasets.describing import (
    EpisodeList,
    columns_of,
    data_schema,
    features,
    write_information,
    write_json,
    write_own,
)
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import FILM, DatasetFacts
from streaming_vla.datasets.films import COMMON_COLOURS, EXACT_COLOURS, OPTIONS
from streaming_vla.datasets.joining import MB, JoinedFilm
from streaming_vla.datasets.layout import ACTION, STATE
from streaming_vla.datasets.parts import EPISODE, ROWS, TASK, Part, PartEpisode, picture_column
from streaming_vla.datasets.stats import PictureStatistics, vector_statistics
from streaming_vla.datasets.storage import Storage
from streaming_vla.datasets.tasks import write_tasks

ROWS_AT_ONCE = 512
Numbers = npt.NDArray[Any]


def join_parts(folder: Path, parts: Sequence[Part], storage: Storage) -> int:
    """Write a data set of the episodes of `parts`, in their order, and return how many there are.

    Raises:
        DatasetError: the folder exists, there is no episode, or parts differ in what is the same for all episodes.
    """
    if folder.exists():
        raise DatasetError(f"data set '{folder}' exists already: choose another folder")
    parts = [part for part in parts if part.episodes]
    if not parts:
        raise DatasetError("there is no episode to write")
    facts = _common_facts(parts)
    unfinished = folder.with_name(f".{folder.name}.joined")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    try:
        count = _Joiner(unfinished, facts, parts, storage).write()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return count


def _common_facts(parts: Sequence[Part]) -> DatasetFacts:
    first = parts[0].facts
    for part in parts[1:]:
        for name in ("cameras", "state_names", "action_names", "rate", "action_absolute", "state_units"):
            one, other = getattr(first, name), getattr(part.facts, name)
            if one != other:
                raise DatasetError(
                    f"{parts[0].about.get('source', parts[0].folder)} and {part.about.get('source', part.folder)} "
                    f"differ in {name.replace('_', ' ')} ({_short(one)} and {_short(other)}): export them into two "
                    "data sets"
                )
    return first


def film_facts(storage: Storage) -> dict[str, Any]:
    """Return what meta/info.json tells of the films, by lerobot's names."""
    return {
        "video.codec": "h264",
        "video.pix_fmt": COMMON_COLOURS if storage is Storage.film420 else EXACT_COLOURS,
        "video.g": int(OPTIONS["g"]),
        "video.crf": int(OPTIONS["crf"]),
        "video.preset": OPTIONS["preset"],
    }


def _short(value: Any) -> str:
    if isinstance(value, tuple) and value and hasattr(value[0], "height"):
        return ", ".join(f"{each.name} {each.width}x{each.height}" for each in value)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class _Joiner:
    """Writes one data set."""

    def __init__(self, folder: Path, facts: DatasetFacts, parts: Sequence[Part], storage: Storage) -> None:
        self._folder, self._facts, self._parts = folder, facts, parts
        longest = max(episode.length for part in parts for episode in part.episodes)
        self._columns = columns_of(float(longest / facts.rate))
        self._schema = data_schema(facts, self._columns)
        self._codec = film_facts(storage)
        self._tasks: dict[str, int] = {}
        self._films = {camera.name: JoinedFilm(facts.rate) for camera in facts.cameras if camera.stored == FILM}
        self._data: Any = None
        self._file, self._bytes = -1, 0
        self._number = self._first = 0
        self._vectors: dict[str, list[Numbers]] = {STATE: [], ACTION: []}
        self._whole: dict[str, list[Numbers]] = {name: [] for name in self._columns}
        self._pictures = {camera.name: PictureStatistics() for camera in facts.cameras}

    def write(self) -> int:
        listed = EpisodeList(self._folder)
        sources = []
        try:
            for part in self._parts:
                begin = self._number
                for place, (episode, batches) in enumerate(_episodes(part)):
                    self._episode(part, place, episode, batches, listed)
                about = {name: part.about[name] for name in ("source",) if name in part.about}
                sources.append({**about, "episodes": [begin, self._number]})
        finally:
            listed.close()
            for film in self._films.values():
                film.close()
            if self._data is not None:
                self._data.close()
        write_tasks(self._folder, list(self._tasks))
        described = features(self._facts, self._columns, self._codec)
        write_information(self._folder, self._facts, described, self._number, self._first, len(self._tasks))
        statistics = {
            name: vector_statistics(np.concatenate(values)) for name, values in {**self._vectors, **self._whole}.items()
        }
        for camera in self._facts.cameras:
            statistics[camera.feature] = self._pictures[camera.name].statistics()
        write_json(self._folder / layout.STATS, statistics)
        write_own(self._folder, self._facts, sources)
        return self._number

    def _episode(
        self, part: Part, place: int, episode: PartEpisode, batches: Iterator[pa.Table], listed: EpisodeList
    ) -> None:
        count = episode.length
        self._roll(episode.bytes)
        frames = np.arange(count)
        seconds = frames * (self._facts.rate.denominator / self._facts.rate.numerator)
        numbers: dict[str, Numbers] = {
            "timestamp": seconds.astype(self._columns["timestamp"]),
            "frame_index": frames,
            "episode_index": np.full(count, self._number),
            "index": self._first + frames,
        }
        vectors: dict[str, list[Numbers]] = {STATE: [], ACTION: []}
        tasks: list[str] = []
        for batch in batches:
            at = slice(len(tasks), len(tasks) + len(batch))
            said = batch[TASK].to_pylist()
            for task in said:
                self._tasks.setdefault(task, len(self._tasks))
            tasks += said
            columns: dict[str, Any] = {
                camera.feature: batch[picture_column(camera.name)] for camera in self._facts.cameras
                if camera.stored != FILM
            }  # fmt: skip
            for name, source in ((STATE, "state"), (ACTION, "action")):
                values = batch[source].combine_chunks()
                flat = values.flatten()
                vectors[name].append(flat.to_numpy(zero_copy_only=False).reshape(len(batch), -1))
                columns[name] = flat if vectors[name][-1].shape[1] == 1 else values
            columns.update({name: pa.array(each[at]) for name, each in numbers.items()})
            columns["task_index"] = pa.array([self._tasks[task] for task in said], pa.int64())
            self._data.write_table(pa.table(columns).select(self._schema.names).cast(self._schema))
        numbers["task_index"] = np.array([self._tasks[task] for task in tasks])
        whole = {name: np.concatenate(each) for name, each in vectors.items()}
        statistics = {name: vector_statistics(each) for name, each in {**whole, **numbers}.items()}
        for name, each in whole.items():
            self._vectors[name].append(each)
        for name, each in numbers.items():
            self._whole[name].append(each)
        for camera in self._facts.cameras:
            counted = episode.pictures[camera.name]
            statistics[camera.feature] = counted.statistics()
            self._pictures[camera.name].merge(counted)
        listed.add({**self._place(count, list(dict.fromkeys(tasks))), **self._place_films(part, place, count)},
                   statistics)  # fmt: skip
        self._bytes += episode.bytes
        self._number += 1
        self._first += count

    def _place(self, count: int, tasks: list[str]) -> dict[str, Any]:
        chunk, file = divmod(self._file, layout.FILES_OF_A_CHUNK)
        return {
            "episode_index": self._number,
            "tasks": tasks,
            "length": count,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._first,
            "dataset_to_index": self._first + count,
        }

    def _place_films(self, part: Part, place: int, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, camera in enumerate(self._facts.cameras):
            if camera.stored != FILM:
                continue
            film, begin_s, end_s = self._films[camera.name].add(
                part.film(place, number), count, partial(self._film_path, camera.feature)
            )
            chunk, file = divmod(film, layout.FILES_OF_A_CHUNK)
            about = {"chunk_index": chunk, "file_index": file, "from_timestamp": begin_s, "to_timestamp": end_s}
            found.update({f"videos/{camera.feature}/{name}": value for name, value in about.items()})
        return found

    def _film_path(self, key: str, number: int) -> Path:
        chunk, file = divmod(number, layout.FILES_OF_A_CHUNK)
        return layout.file_path(self._folder, layout.VIDEO_PATH, video_key=key, chunk_index=chunk, file_index=file)

    def _roll(self, size: int) -> None:
        """Begin the next data file where the episode would make this one too large."""
        if self._data is not None and self._bytes + size <= layout.DATA_FILE_MB * MB:
            return
        if self._data is not None:
            self._data.close()
        self._file, self._bytes = self._file + 1, 0
        chunk, file = divmod(self._file, layout.FILES_OF_A_CHUNK)
        path = layout.file_path(self._folder, layout.DATA_PATH, chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._data = parquet.ParquetWriter(path, self._schema)


def _episodes(part: Part) -> Iterator[tuple[PartEpisode, Iterator[pa.Table]]]:
    """Yield the episodes of a part, each with its rows in pieces; they must be read in order."""
    with parquet.ParquetFile(part.folder / ROWS) as file:
        pieces = _pieces(file)
        waiting: list[pa.Table] = []

        def rows_of(count: int) -> Iterator[pa.Table]:
            while count:
                piece = waiting.pop() if waiting else next(pieces)
                if len(piece) > count:
                    waiting.append(piece.slice(count))
                    piece = piece.slice(0, count)
                count -= len(piece)
                yield piece

        for episode in part.episodes:
            yield episode, rows_of(episode.length)


def _pieces(file: Any) -> Iterator[pa.Table]:
    for batch in file.iter_batches(ROWS_AT_ONCE):
        yield pa.Table.from_batches([batch]).drop_columns([EPISODE])
