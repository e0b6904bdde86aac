"""Writes a data set (v3.0) of episodes that are at hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streaming_vla.datasets.facts import DatasetFacts
from streaming_vla.datasets.join import join_parts
from streaming_vla.datasets.parts import PartWriter, Pixels
from streaming_vla.datasets.storage import Storage


@dataclass(frozen=True)
class Step:
    """One step of an episode: pictures [H, W, 3] uint8 BGR by camera, state [S], action [A], what it was asked to do.

    Args:
        episode: number of the episode; another one begins where it changes.
    """

    episode: int
    task: str
    pictures: Mapping[str, Pixels]
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]


def write_dataset(folder: Path, steps: Iterable[Step], facts: DatasetFacts, storage: Storage = Storage.film) -> int:
    """Write `steps` as a new data set and return how many episodes there are; after an error nothing is left of it.

    Args:
        facts: sizes of the cameras are those of the first pictures.

    Raises:
        DatasetError: the folder exists, there is no step, or a picture has another size than the first.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    try:
        with PartWriter(temporary, facts.rate, [camera.name for camera in facts.cameras], storage) as writer:
            add_steps(writer, steps)
            part = writer.finish(facts, {})
        return join_parts(folder, [part], storage)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def add_steps(writer: PartWriter, steps: Iterable[Step] | Iterator[Step]) -> None:
    """Hand steps to a part; an episode begins where their number changes."""
    running: int | None = None
    for step in steps:
        if step.episode != running:
            writer.begin()
            running = step.episode
        writer.add(step.pictures, step.state, step.action, step.task)
