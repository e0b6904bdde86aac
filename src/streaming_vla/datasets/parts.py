"""A part of a data set that is being written: what comes of one recording, with a film for each episode and camera.

Parts are made one by one, also by several processes, and put together at the end (`join.py`): whoever was stopped goes
on with the part that is missing. Memory does not grow with the length of an episode.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import FILM, PNG, Camera, DatasetFacts
from streaming_vla.datasets.films import COMMON_COLOURS, EXACT_COLOURS, FilmWriter
from streaming_vla.datasets.stats import PictureStatistics
from streaming_vla.datasets.storage import Storage

Pixels = npt.NDArray[np.uint8]
ROWS, DONE, FILMS = "rows.parquet", "part.json", "films"
EPISODE, TASK = "episode", "task"  # columns beside state, action and pictures
MOST_ROWS, MOST_BYTES = 4096, 1 << 25  # that wait to be written
STATISTICS_EVERY = 4  # pictures
PNG_SPEED = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # zlib's levels: a third larger than 9, ten times as fast
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass
class PartEpisode:
    """One episode of a part; `bytes` of its rows in memory."""

    length: int = 0
    bytes: int = 0
    pictures: dict[str, PictureStatistics] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A finished part: where it is, what it says of all its episodes, and what was told on the way."""

    folder: Path
    facts: DatasetFacts
    episodes: list[PartEpisode]
    about: Mapping[str, Any]

    def film(self, episode: int, camera: int) -> Path:
        """Return the film of an episode."""
        return film_path(self.folder, episode, camera)


class PartWriter:
    """Writes one part; a context manager. `begin` an episode, `add` its steps, `finish` the part.

    Args:
        folder: is emptied.
        cameras: their names.
    """

    def __init__(self, folder: Path, rate: Fraction, cameras: Sequence[str], storage: Storage = Storage.film) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        (folder / FILMS).mkdir(parents=True)
        self._folder, self._rate, self._cameras, self._storage = folder, rate, tuple(cameras), storage
        self._sizes: dict[str, tuple[int, int]] = {}
        self._films: dict[str, FilmWriter] = {}
        self._episodes: list[PartEpisode] = []
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._table: Any = None

    def begin(self) -> None:
        """Begin an episode."""
        self._end()
        self._episodes.append(PartEpisode(pictures={name: PictureStatistics() for name in self._cameras}))

    def add(
        self,
        pictures: Mapping[str, Pixels],
        state: npt.NDArray[np.float32],
        action: npt.NDArray[np.float32],
        task: str,
    ) -> None:
        """Append a step: pictures [H, W, 3] BGR by camera, state [S], action [A], and what the robot was asked to do.

        Raises:
            DatasetError: a picture has another size than the camera's first one, or a number is not finite.
        """
        if not self._episodes:
            self.begin()
        for what, values in (("state", state), ("action", action)):
            if not np.isfinite(values).all():
                raise DatasetError(f"the {what} of a step is {values.tolist()}, expected finite numbers")
        episode = self._episodes[-1]
        row: dict[str, Any] = {EPISODE: len(self._episodes) - 1, "state": state, "action": action, TASK: task}
        for name in self._cameras:
            pixels = pictures[name]
            self._check(name, pixels)
            if episode.length % STATISTICS_EVERY == 0:
                episode.pictures[name].add(pixels)
            if self._storage is Storage.png:
                row[name] = {"bytes": _png(pixels), "path": f"{name}_{episode.length:06d}.png"}
                self._bytes += len(row[name]["bytes"])
                episode.bytes += len(row[name]["bytes"])
            else:
                self._film(name).write(pixels)
        episode.length += 1
        episode.bytes += 4 * (len(state) + len(action)) + 40
        self._rows.append(row)
        if len(self._rows) >= MOST_ROWS or self._bytes >= MOST_BYTES:
            self._flush()

    def finish(self, facts: DatasetFacts, about: Mapping[str, Any]) -> Part:
        """Write what is left and mark the part as whole.

        Args:
            facts: of the recording; the cameras are those that were seen.
            about: anything else that is to be kept, plain values.
        """
        self._end()
        self._flush()
        if self._table is not None:
            self._table.close()
            self._table = None
        stored = PNG if self._storage is Storage.png else FILM
        cameras = [Camera(name, *self._sizes[name], stored) for name in self._cameras if name in self._sizes]
        held = {
            "facts": {**asdict(facts), "rate": str(facts.rate), "cameras": [asdict(camera) for camera in cameras]},
            "episodes": [
                {"length": each.length, "bytes": each.bytes,
                 "pictures": {name: counted.to_json() for name, counted in each.pictures.items()}}
                for each in self._episodes
            ],
            "about": dict(about),
        }  # fmt: skip
        partial = self._folder / f"{DONE}.partial"
        partial.write_text(json.dumps(held), encoding="utf-8")
        partial.rename(self._folder / DONE)
        return read_part(self._folder)

    def close(self) -> None:
        """Free files."""
        for film in self._films.values():
            film.close()
        self._films = {}
        if self._table is not None:
            self._table.close()
            self._table = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self) -> None:
        for film in self._films.values():
            film.close()
        self._films = {}
        if self._episodes and not self._episodes[-1].length:
            self._episodes.pop()

    def _check(self, name: str, pixels: Pixels) -> None:
        size = pixels.shape[:2]
        first = self._sizes.setdefault(name, (int(size[0]), int(size[1])))
        if size != first:
            raise DatasetError(
                f"camera {name} sends {size[1]}x{size[0]} px after {first[1]}x{first[0]} px: export what belongs "
                "together, or bring all pictures to one size with --square"
            )

    def _film(self, name: str) -> FilmWriter:
        if name not in self._films:
            colours = EXACT_COLOURS if self._storage is Storage.film else COMMON_COLOURS
            path = film_path(self._folder, len(self._episodes) - 1, self._cameras.index(name))
            self._films[name] = FilmWriter(path, self._rate, *self._sizes[name], colours)
        return self._films[name]

    def _flush(self) -> None:
        if not self._rows:
            return
        columns: dict[str, Any] = {
            EPISODE: pa.array([row[EPISODE] for row in self._rows], pa.int64()),
            TASK: pa.array([row[TASK] for row in self._rows], pa.string()),
        }
        for name in ("state", "action"):
            values = np.stack([row[name] for row in self._rows]).astype(np.float32)
            columns[name] = pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
        if self._storage is Storage.png:
            columns.update({picture_column(name): pa.array([row[name] for row in self._rows], PICTURE)
                            for name in self._cameras})  # fmt: skip
        table = pa.table(columns)
        if self._table is None:
            self._table = parquet.ParquetWriter(self._folder / ROWS, table.schema)
        self._table.write_table(table)
        self._rows, self._bytes = [], 0


def read_part(folder: Path) -> Part:
    """Return a finished part; DatasetError when it is not whole."""
    try:
        held = json.loads((folder / DONE).read_text(encoding="utf-8"))
        given: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in held["facts"].items()
        }
        given["rate"] = Fraction(given["rate"])
        given["cameras"] = tuple(Camera(**camera) for camera in held["facts"]["cameras"])
        facts = DatasetFacts(**given)
        episodes = [
            PartEpisode(
                each["length"],
                each["bytes"],
                {name: PictureStatistics.from_json(counted) for name, counted in each["pictures"].items()},
            )
            for each in held["episodes"]
        ]
        return Part(folder, facts, episodes, held["about"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"'{folder}' is no finished part of an export ({error})") from error


def film_path(folder: Path, episode: int, camera: int) -> Path:
    """Return the film of an episode of a part; cameras by their place."""
    return folder / FILMS / f"{episode:06d}_{camera}.mp4"


def picture_column(camera: str) -> str:
    """Return the column of a camera's PNG pictures in a part."""
    return f"picture/{camera}"


def _png(pixels: Pixels) -> bytes:
    done, data = cv2.imencode(".png", pixels, PNG_SPEED)
    if not done:
        raise DatasetError(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} px cannot be written as PNG")
    return bytes(data)
