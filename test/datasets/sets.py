"""Small data sets with known content: of version 3.0 by our own writer, of version 2.1 by hand, and changed ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.facts import Camera, DatasetFacts
from streaming_vla.datasets.films import FilmWriter
from streaming_vla.datasets.parts import Storage
from streaming_vla.datasets.writer import Step, write_dataset

GOLDEN = Path(__file__).resolve().parent / "golden"
NAMES = ("a", "b", "c")
CAMERAS = (Camera("front", 48, 64), Camera("wrist", 40, 32))
FACTS = DatasetFacts(Fraction(30), CAMERAS, NAMES, NAMES, "arm", action_absolute=(True, True, False))


def photograph(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return a picture [height, width, 3] with the statistics of natural ones: amplitudes fall with the frequency, and
    colours go along with the brightness."""
    random = np.random.default_rng(seed)
    down, along = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    falling = 1.0 / np.maximum(np.hypot(down, along), 1.0 / max(height, width))

    def field() -> npt.NDArray[np.float64]:
        noise = np.fft.irfft2(np.fft.rfft2(random.normal(size=(height, width))) * falling, (height, width))
        return (noise - noise.mean()) / noise.std()

    bright = field()
    colours = [110.0 + 45.0 * (bright + 0.3 * field()) + shift for shift in (-12.0, 0.0, 10.0)]
    return np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8)


def steps_of(
    lengths: Sequence[int], cameras: Sequence[Camera] = CAMERAS, task: Callable[[int, int], str] | None = None
) -> Iterator[Step]:
    """Yield episodes of known numbers: state [e, t, 0.5], action [t, 2 t, -t] / 10; pictures tell their step."""
    say = task or (lambda episode, step: f"do {episode % 2}")
    for episode, count in enumerate(lengths):
        for step in range(count):
            pictures = {
                camera.name: np.full((camera.height, camera.width, 3), 10 + 4 * step % 200, np.uint8)
                for camera in cameras
            }
            state = np.array([episode, step, 0.5], np.float32)
            action = np.array([step, 2 * step, -step], np.float32) / 10
            yield Step(episode, say(episode, step), pictures, state, action)


def make_set(folder: Path, lengths: Sequence[int] = (20, 12), storage: Storage = Storage.png, **changes: Any) -> Path:
    """Write a data set of version 3.0; `changes` are of its facts."""
    facts = replace(FACTS, **changes)
    write_dataset(folder, steps_of(lengths, facts.cameras), facts, storage)
    return folder


def make_old_set(folder: Path, lengths: Sequence[int] = (20, 12)) -> Path:
    """Write the same content in version 2.1: a table and a film for each episode."""
    with Dataset(make_set(folder.with_name("new"), lengths, Storage.film)) as data:
        information = json.loads((data.folder / "meta/info.json").read_text())
        information.update(
            codebase_version="v2.1",
            data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        )
        (folder / "meta").mkdir(parents=True)
        (folder / "meta/info.json").write_text(json.dumps(information))
        lines(folder / "meta/tasks.jsonl", [{"task_index": index, "task": task} for index, task in data.tasks.items()])
        listed = [{"episode_index": each.number, "tasks": list(each.tasks), "length": each.length}
                  for each in data.entries]  # fmt: skip
        lines(folder / "meta/episodes.jsonl", listed)
        for entry in data.entries:
            table = parquet.read_table(entry.path, filters=[("episode_index", "=", entry.number)])
            path = folder / f"data/chunk-000/episode_{entry.number:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, path)
            for camera in data.facts.cameras:
                film = folder / f"videos/chunk-000/{camera.feature}/episode_{entry.number:06d}.mp4"
                film.parent.mkdir(parents=True, exist_ok=True)
                with FilmWriter(film, data.facts.rate, camera.height, camera.width) as writer:
                    for pixels in data.pictures(data.episode(entry), camera.name):
                        writer.write(pixels)
    shutil.rmtree(folder.with_name("new"))
    return folder


def lines(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Write one object a line."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def change_information(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change meta/info.json in place."""
    path = folder / "meta/info.json"
    information = json.loads(path.read_text())
    change(information)
    path.write_text(json.dumps(information))


def change_rows(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the first data file in place."""
    path = sorted(folder.glob("data/*/*.parquet"))[0]
    parquet.write_table(change(parquet.read_table(path)), path)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """Return a table with a column replaced."""
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, pa.array(values, table.schema.field(name).type))
