"""Damaged data sets: whatever byte is another one, nothing but a sentence comes out."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from sets import GOLDEN, make_old_set

from streaming_vla.datasets.check import check_episode, check_films, check_whole
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.errors import DatasetError

MUTATIONS = 40  # of each set; thousands were tried by hand


def read_all(folder: Path) -> None:
    """Read everything of a data set."""
    with Dataset(folder) as data:
        list(check_whole(data))
        list(check_films(data))
        for entry in data.entries:
            episode = data.episode(entry)
            list(check_episode(data, episode))
            for camera in data.facts.cameras:
                list(data.pictures(episode, camera.name))


def damage(folder: Path, chance: random.Random) -> Path:
    """Cut one file of a data set off, or change some of its bytes; return it."""
    file = chance.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
    content = bytearray(file.read_bytes())
    if chance.random() < 0.2:
        content = content[: chance.randrange(len(content))]
    for _ in range(chance.choice((1, 1, 3, 20)) if content else 0):
        content[chance.randrange(len(content))] = chance.randrange(256)
    file.write_bytes(bytes(content))
    return file


@pytest.mark.parametrize("kind", ["so101_image", "so101_video", "old"])
def test_damage_is_a_sentence(tmp_path: Path, kind: str) -> None:
    whole = make_old_set(tmp_path / "old") if kind == "old" else GOLDEN / kind
    refused = 0
    for seed in range(MUTATIONS):
        folder = tmp_path / "damaged"
        shutil.copytree(whole, folder)
        file = damage(folder, random.Random(seed))
        try:
            read_all(folder)
        except DatasetError as error:
            refused += 1
            assert "\n" not in str(error), file
        shutil.rmtree(folder)
    assert refused > MUTATIONS // 4  # else the damage did nothing
