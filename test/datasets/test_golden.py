"""The data sets that lerobot 0.6.1 wrote, as it reads them itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sets import GOLDEN

from streaming_vla.datasets.check import check_episode, check_films, check_whole
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.parts import Storage
from streaming_vla.datasets.stats import PictureStatistics, vector_statistics
from streaming_vla.datasets.writer import Step, write_dataset

KINDS = ("image", "video")
WITHIN = {"image": 1e-6, "video": 1e-2}  # of 1.0: decoders differ in how they round

MEAN_CHANGE = {Storage.png: 0.0, Storage.film: 4.0, Storage.film420: 8.0}  # of 255; sharp edges between pure colours


def opened(kind: str) -> tuple[Dataset, dict[str, Any]]:
    truth = json.loads((GOLDEN / f"so101_{kind}.truth.json").read_text())
    return Dataset(GOLDEN / f"so101_{kind}"), truth


def compare(data: Dataset, truth: dict[str, Any], within: float) -> None:
    """Compare every item of the truth with what our reader gives."""
    for item in truth["items"]:
        number, step = item["episode_index"]["value"], item["frame_index"]["value"]
        episode = data.episode(data.entries[number])
        assert episode.state[step].tolist() == item["observation.state"]["value"]
        rows = np.minimum(step + np.arange(8), len(episode) - 1)  # windows repeat the last action
        assert episode.action[rows].tolist() == item["action"]["value"]
        assert data.instructions(episode)[step] == item["task"]
        assert episode.index[step] == item["index"]["value"]
        assert abs(episode.timestamp[step] - item["timestamp"]["value"]) < 1e-6
        for camera in ("top", "wrist"):
            told = item[f"observation.images.{camera}"]
            (pixels,) = data.pictures(episode, camera, [step])
            shown = pixels[..., ::-1] / 255.0
            assert list(shown.transpose(2, 0, 1).shape) == told["shape"]
            np.testing.assert_allclose(shown.mean(axis=(0, 1)), told["mean_per_channel"], atol=within)
            np.testing.assert_allclose(shown[0, [0, 31, 63]], told["first_row_first_pixels"], atol=within)
            np.testing.assert_allclose(shown[40, 10], told["pixel_at_row_40_column_10"], atol=within)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_as_lerobot_reads_it(kind: str) -> None:
    data, truth = opened(kind)
    with data:
        assert sum(entry.length for entry in data.entries) == truth["length"]
        assert list(data.tasks.values()) == truth["tasks"]
        assert data.facts.fps == truth["fps"] and data.facts.robot_type == "so101_follower"
        assert list(data.facts.state_names) == truth["features"]["observation.state"]["names"]
        for entry, told in zip(data.entries, truth["episodes"], strict=True):
            assert (entry.number, entry.length, entry.first) == (
                told["episode_index"], told["length"], told["dataset_from_index"],
            )  # fmt: skip
        compare(data, truth, WITHIN[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wrong_with_it(kind: str) -> None:
    with opened(kind)[0] as data:
        found = [*check_whole(data), *check_films(data)]
        found += [each for entry in data.entries for each in check_episode(data, data.episode(entry))]
        assert not found


@pytest.mark.parametrize("storage", Storage)
@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_our_writer(kind: str, storage: Storage, tmp_path: Path) -> None:
    data, truth = opened(kind)

    def steps() -> Iterator[Step]:
        for entry in data.entries:
            episode = data.episode(entry)
            pictures = [data.pictures(episode, camera.name) for camera in data.facts.cameras]
            for step, (task, *shown) in enumerate(zip(data.instructions(episode), *pictures, strict=True)):
                named = {camera.name: each for camera, each in zip(data.facts.cameras, shown, strict=True)}
                yield Step(entry.number, task, named, episode.state[step], episode.action[step])

    with data:
        assert write_dataset(tmp_path / "again", steps(), data.facts, storage) == 2
    with Dataset(tmp_path / "again") as again:
        # sharp edges between pure colours: films blur single pixels
        compare(again, truth, WITHIN[kind] if storage is Storage.png else 0.15)
        assert again.facts.state_names == data.facts.state_names and again.facts.rate == data.facts.rate
        for entry in again.entries:
            for camera in ("top", "wrist"):
                one = np.stack(list(data.pictures(data.episode(data.entries[entry.number]), camera))).astype(int)
                other = np.stack(list(again.pictures(again.episode(entry), camera))).astype(int)
                assert np.abs(one - other).mean() <= MEAN_CHANGE[storage]


def test_our_statistics_are_lerobots() -> None:
    """Theirs are estimated: quantiles in 5000 bins, those of a set as the mean of its episodes'."""
    with opened("image")[0] as data:
        held = json.loads((data.folder / "meta/stats.json").read_text())
        episodes = [data.episode(entry) for entry in data.entries]
        for name, values in (("observation.state", "state"), ("action", "action")):
            ours = vector_statistics(np.concatenate([getattr(episode, values) for episode in episodes]))
            for each in ("min", "max", "mean", "std", "count"):
                np.testing.assert_allclose(ours[each], held[name][each], rtol=1e-5)
            assert set(ours) == set(held[name])
        counted = PictureStatistics()
        for episode in episodes:
            for pixels in data.pictures(episode, "top"):
                counted.add(pixels)
        ours = counted.statistics()
        theirs = held["observation.images.top"]
        for each in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(ours[each], theirs[each], atol=2e-3)
        for each in ("q01", "q10", "q50", "q90", "q99"):
            np.testing.assert_allclose(ours[each], theirs[each], atol=2 / 255)
        assert np.shape(ours["q01"]) == (3, 1, 1) and ours["count"] == [45]


def test_quantiles_of_one_episode_are_lerobots() -> None:
    """Of a single episode theirs are estimated from the same numbers: equal but for a bin and the kind of quantile."""
    from pyarrow import parquet

    with opened("image")[0] as data:
        row = parquet.read_table(data.folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[1]
        state = data.episode(data.entries[1]).state
        ours = vector_statistics(state)
        between = np.abs(np.diff(np.sort(state, axis=0), axis=0)).max(axis=0)  # neighbouring values
        for each in ("q01", "q10", "q50", "q90", "q99"):
            assert (np.abs(np.array(ours[each]) - row[f"stats/observation.state/{each}"]) <= between + 1e-3).all()
