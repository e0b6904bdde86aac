"""A data set on disk, of either version: its facts, its episodes, their numbers and pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from streaming_vla.datasets.episodes import EpisodeEntry, read_episodes
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import PNG, Camera, read_facts
from streaming_vla.datasets.films import FilmReader, Pixels
from streaming_vla.datasets.rows import Floats, Integers, Rows, read_pictures, read_rows
from streaming_vla.datasets.tasks import read_tasks

OPEN_FILMS = 8  # files that are kept open


@dataclass(frozen=True)
class Episode:
    """The numbers of an episode of T steps as they are stored, in the order of frame_index.

    state [T, S] and action [T, A] float32; timestamp [T] float64, s; frame_index, index and task_index [T] int64;
    places [T], rows of the file.
    """

    entry: EpisodeEntry
    state: Floats
    action: Floats
    timestamp: npt.NDArray[np.float64]
    frame_index: Integers
    index: Integers
    task_index: Integers
    places: Integers

    def __len__(self) -> int:
        return len(self.state)


class Dataset:
    """Reads a data set; a context manager that closes films at its end.

    Attributes:
        facts: what is the same for all episodes.
        entries: the listed episodes, in the order of their numbers.
        tasks: instruction of each task index.

    Raises:
        DatasetError: it is no data set of a known version, or its description is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts = read_facts(folder)
        self.tasks = read_tasks(folder, self.facts.version)
        self.entries = read_episodes(folder, self.facts)
        self._rows: Rows | None = None
        self._films: dict[Path, FilmReader] = {}

    def rows(self, path: Path) -> Rows:
        """Return the numbers of a data file; the newest one stays in memory."""
        if self._rows is None or self._rows.path != path:
            self._rows = read_rows(path, len(self.facts.state_names), len(self.facts.action_names))
        return self._rows

    def episode(self, entry: EpisodeEntry) -> Episode:
        """Return the numbers of an episode as they are stored; `check.py` says what is wrong with them.

        Raises:
            DatasetError: its file is missing or damaged, or holds another number of rows of it.
        """
        if not entry.path.is_file():
            raise DatasetError(
                f"episode {entry.number} of data set '{self.folder}' is listed, but its file {entry.path.name} is "
                "missing: a deleted episode must be taken out of the list in meta as well"
            )
        rows = self.rows(entry.path)
        places = rows.of(entry.number)
        if len(places) != entry.length:
            raise DatasetError(
                f"episode {entry.number} of data set '{self.folder}' has {len(places)} rows in '{entry.path}', its "
                f"list says {entry.length}: write the data set again"
            )
        return Episode(
            entry,
            rows.state[places],
            rows.action[places],
            rows.timestamp[places],
            rows.frame_index[places],
            rows.index[places],
            rows.task_index[places],
            places,
        )

    def instructions(self, episode: Episode) -> list[str]:
        """Return what was asked for at each step, [T].

        Raises:
            DatasetError: a task index that no task has.
        """
        unknown = sorted(set(episode.task_index.tolist()) - set(self.tasks))
        if unknown:
            raise DatasetError(
                f"episode {episode.entry.number} of data set '{self.folder}' has task index "
                f"{', '.join(map(str, unknown))}, but its tasks are {', '.join(map(str, self.tasks))}"
            )
        return [self.tasks[index] for index in episode.task_index.tolist()]

    def pictures(self, episode: Episode, camera: str, steps: Sequence[int] | None = None) -> Iterator[Pixels]:
        """Yield the pictures of a camera, [H, W, 3] uint8 BGR; those that follow each other are quick.

        Args:
            steps: which of them, in this order; None for all.

        Raises:
            DatasetError: a film or picture is missing, damaged, or of another size than the data set says.
        """
        about = self.facts.camera(camera)
        chosen = range(len(episode)) if steps is None else steps
        if about.stored == PNG:
            yield from self._stored(episode, about, chosen)
            return
        place = episode.entry.films[camera]
        film = self._film(place.path, about)
        for step in chosen:
            at_s = place.from_s + step / float(self.facts.rate)
            yield film.frame(round(at_s * float(self.facts.rate)), at_s)

    def close(self) -> None:
        """Close films."""
        for film in self._films.values():
            film.close()
        self._films = {}

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _film(self, path: Path, camera: Camera) -> FilmReader:
        if path not in self._films:
            if not path.is_file():
                raise DatasetError(f"the film '{path}' of camera {camera.name} is missing: copy the data set again")
            while len(self._films) >= OPEN_FILMS:
                self._films.pop(next(iter(self._films))).close()
            self._films[path] = FilmReader(path, self.facts.rate, camera.height, camera.width)
        return self._films[path]

    def _stored(self, episode: Episode, camera: Camera, steps: Sequence[int]) -> Iterator[Pixels]:
        places = episode.places[np.asarray(steps, dtype=np.int64)]
        for number, data in zip(steps, read_pictures(episode.entry.path, camera.feature, places), strict=True):
            try:
                yield decode_picture(data, camera)
            except DatasetError as error:
                raise DatasetError(
                    f"step {number} of episode {episode.entry.number} of '{self.folder}': {error}"
                ) from error


def decode_picture(data: bytes, camera: Camera) -> Pixels:
    """Return an encoded picture as [H, W, 3] BGR; its size is looked at before it is decoded.

    Raises:
        DatasetError: no picture, or one of another size than the data set says.
    """
    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Exception as error:  # Pillow's plugins raise what they like
        raise DatasetError(f"the picture of camera {camera.name} cannot be read ({error})") from error
    if (height, width) != (camera.height, camera.width):
        raise DatasetError(
            f"the picture of camera {camera.name} is {width}x{height} px, meta/info.json says "
            f"{camera.width}x{camera.height} px"
        )
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise DatasetError(f"the picture of camera {camera.name} cannot be decoded")
    return np.asarray(decoded, np.uint8)
