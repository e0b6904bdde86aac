"""Data sets of both versions: read as they were written, whatever is wrong is told or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sets import (
    CAMERAS,
    FACTS,
    change_information,
    change_rows,
    lines,
    make_old_set,
    make_set,
    steps_of,
    with_column,
)

from streaming_vla.datasets import join, tables
from streaming_vla.datasets.check import check_episode, check_films, check_whole, checked
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import Camera
from streaming_vla.datasets.parts import Storage
from streaming_vla.datasets.tasks import write_tasks
from streaming_vla.datasets.writer import write_dataset

LENGTHS = (20, 12)
Change = Callable[[Path], object]


def findings(folder: Path) -> list[tuple[str, bool]]:
    """Return every finding of a data set."""
    with Dataset(folder) as data:
        found = [*check_whole(data), *check_films(data)]
        for entry in data.entries:
            found += check_episode(data, data.episode(entry))
        return [(finding.sentence, finding.fatal) for finding in found]


def expect(folder: Path, lengths: tuple[int, ...] = LENGTHS, within: float = 0.0) -> None:
    """Check that a data set holds the steps of `steps_of`."""
    with Dataset(folder) as data:
        assert [entry.length for entry in data.entries] == list(lengths)
        for number, entry in enumerate(data.entries):
            episode = data.episode(entry)
            steps = np.arange(len(episode))
            assert np.array_equal(episode.state[:, 1], steps) and (episode.state[:, 0] == number).all()
            assert np.allclose(episode.action[:, 2], -steps / 10)
            assert np.allclose(episode.timestamp, steps / data.facts.fps, atol=1e-6)
            assert data.instructions(episode) == [f"do {number % 2}"] * len(episode)
            for camera in data.facts.cameras:
                shown = np.stack(list(data.pictures(episode, camera.name)))
                assert shown.shape == (len(episode), camera.height, camera.width, 3)
                assert np.abs(shown.mean(axis=(1, 2, 3)) - (10 + 4 * steps % 200)).max() <= within


@pytest.mark.parametrize("storage", Storage)
def test_a_set_is_read_as_it_was_written(tmp_path: Path, storage: Storage) -> None:
    folder = make_set(tmp_path / "set", storage=storage)
    expect(folder, within=0.0 if storage is Storage.png else 2.0)
    assert findings(folder) == []
    with Dataset(folder) as data:
        assert replace(data.facts, cameras=()) == replace(FACTS, cameras=())
        assert [(each.name, each.height, each.width) for each in data.facts.cameras] == [
            ("front", 48, 64), ("wrist", 40, 32),
        ]  # fmt: skip


def test_the_old_version_is_read(tmp_path: Path) -> None:
    folder = make_old_set(tmp_path / "old")
    expect(folder, within=3.0)
    assert [sentence for sentence, _ in findings(folder)] == [
        f"'{folder}' is of version v2.1: lerobot 0.4 and later wants it converted"
    ]


def test_each_frame_has_its_own_instruction(tmp_path: Path) -> None:
    said = ["pick the cup", "put it on the shelf", "pick the cup"]

    def task(episode: int, step: int) -> str:
        return said[min(2, step // (3 + episode))]

    write_dataset(tmp_path / "set", steps_of((11, 9, 1), task=task), FACTS, Storage.png)
    assert [sentence for sentence, _ in findings(tmp_path / "set")] == [
        f"episode 2 of data set '{tmp_path / 'set'}' has one step only, of which no motion can be learned"
    ]
    with Dataset(tmp_path / "set") as data:
        for number, entry in enumerate(data.entries):
            episode = data.episode(entry)
            assert data.instructions(episode) == [task(number, step) for step in range(len(episode))]
        assert data.entries[0].tasks == ("pick the cup", "put it on the shelf")


@pytest.mark.parametrize("make", [make_set, make_old_set])
def test_the_order_of_rows_is_that_of_frame_index(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path / "set")
    order = np.random.default_rng(0).permutation(20)
    rows = sum(LENGTHS) if make is make_set else LENGTHS[0]
    change_rows(folder, lambda table: table.take(np.concatenate((order, np.arange(20, rows)))))
    expect(folder, within=3.0 if make is make_old_set else 0.0)
    (sentence,) = [each for each, fatal in findings(folder) if "in the order of" in each]
    assert "are not in the order of frame_index: they are put in order here, lerobot takes them" in sentence


def test_deleted_episodes_are_told(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", (4, 5, 6, 3))
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = parquet.read_table(path)
    parquet.write_table(table.filter(pa.compute.not_equal(table["episode_index"], 1)), path)
    with Dataset(folder) as data:
        assert [entry.number for entry in data.entries] == [0, 2, 3]
        assert [len(data.episode(entry)) for entry in data.entries] == [4, 6, 3]
        assert (data.episode(data.entries[1]).state[:, 0] == 2).all()
    told = " ".join(sentence for sentence, fatal in findings(folder) if not fatal)
    assert "meta/info.json tells 4 episodes, there are 3" in told
    assert "episodes 1 are missing in the list, as after deleting" in told
    assert "has rows of episodes 1, which are not listed: they are left out here" in told


def test_a_deleted_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_old_set(tmp_path / "old")
    (folder / "data/chunk-000/episode_000001.parquet").unlink()
    with (
        Dataset(folder) as data,
        pytest.raises(DatasetError, match=r"episode 1 .* but its file .* is missing"),
    ):
        data.episode(data.entries[1])
    folder = make_old_set(tmp_path / "other")
    next(folder.glob("videos/*/observation.images.wrist/episode_000000.mp4")).unlink()
    with Dataset(folder) as data, pytest.raises(DatasetError, match=r"the film .* of camera wrist is missing"):
        list(data.pictures(data.episode(data.entries[0]), "wrist"))


def set_column(name: str, place: int, value: object) -> Change:
    def change(folder: Path) -> None:
        def rows(table: pa.Table) -> pa.Table:
            values = table[name].to_pylist()
            if isinstance(values[place], list):
                values[place] = [value, *values[place][1:]]
            else:
                values[place] = value
            return with_column(table, name, values)

        change_rows(folder, rows)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_column("observation.state", 7, float("nan")), "has a state that is not finite at step 7 (1 of 20 steps)"),
        (set_column("action", 3, float("inf")), "has a action that is not finite at step 3"),
        (set_column("frame_index", 5, 4), "has frame_index 4 where 5 is expected"),
        (set_column("timestamp", 9, 0.5), "has time 0.5000 s at step 9, at 30 steps a second it is 0.3000 s"),
        (set_column("task_index", 2, 7), "has task index 7, but its tasks are 0, 1"),
        (lambda folder: change_information(folder, lambda info: info.update(fps=25)), "at 25 steps a second it is"),
        (lambda folder: write_tasks(folder, ["do 0", " "]), "has an empty instruction"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, change: Change, sentence: str) -> None:
    folder = make_set(tmp_path / "set")
    change(folder)
    assert any(sentence in each for each, fatal in findings(folder) if fatal)
    with Dataset(folder) as data, pytest.raises(DatasetError):
        for entry in data.entries:
            checked(data, data.episode(entry))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            set_column("index", 3, 99),
            "the index of episode 0 .* does not count up from 0, which is where",
        ),
        (lambda folder: (folder / "meta/stats.json").unlink(), "meta/stats.json is missing"),
        (
            lambda folder: (folder / "meta/stats.json").write_text('{"action": {"mean": [0]}}'),
            "has no std, min, max, q01, q10, q50, q90, q99 of action",
        ),
        (
            lambda folder: change_information(
                folder, lambda info: info["features"].update({"next.reward": {"dtype": "float32", "shape": [1]}})
            ),
            r"not used here: next.reward \(float32\)",
        ),
        (lambda folder: change_information(folder, lambda info: info.update(total_frames=3)), "tells 3 frames, there"),
    ],
)
def test_what_others_stumble_over_is_told(tmp_path: Path, change: Change, sentence: str) -> None:
    folder = make_set(tmp_path / "set")
    change(folder)
    found = findings(folder)
    pattern = __import__("re").compile(sentence)
    assert any(pattern.search(each) for each, _ in found) and not any(fatal for _, fatal in found)
    expect(folder)


def drop(name: str) -> Change:
    return lambda folder: change_rows(folder, lambda table: table.drop_columns([name]))


def describe(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda folder: change_information(folder, change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (describe(lambda info: info.update(codebase_version="v1.6")), "is of version v1.6, expected v3.0 or v2.1"),
        (describe(lambda info: info.update(fps=0)), "fps of .* is 0, expected steps per second"),
        (describe(lambda info: info.pop("fps")), "fps of .* is 0"),
        (describe(lambda info: info["features"].pop("action")), "lacks what a policy learns from"),
        (describe(lambda info: info["features"]["action"].update(names=["a"])), "1 names of 3 numbers"),
        (
            describe(lambda info: info["features"]["observation.state"].update(shape=[4], names=None)),
            "meta/info.json says 4",
        ),
        (describe(lambda info: info["features"]["action"].update(shape=[10**9])), "lacks what a policy learns from"),
        (
            describe(lambda info: info["features"]["observation.images.front"].update(shape=[48, 64, 1])),
            r"has shape \[48, 64, 1\]",
        ),
        (
            describe(lambda info: info["features"]["observation.images.front"].update(shape=[10**6, 10**6, 3])),
            "expected height, width and 3 colours",
        ),
        (
            describe(lambda info: info["features"]["observation.images.front"].update(info={"is_depth_map": True})),
            "is a depth map, which is not read",
        ),
        (
            describe(lambda info: info["features"]["observation.images.front"].update(shape=[47, 64, 3])),
            "picture of camera front is 64x48 px, meta/info.json says 64x47 px",
        ),
        (describe(lambda info: info.update(data_path="../{chunk_index}/{file_index}")), "leads out of the data set"),
        (describe(lambda info: info.update(data_path="/etc/{chunk_index}")), "leads out of the data set"),
        (describe(lambda info: info.update(data_path="{chunk_index:0999999999d}")), "fields that are not known"),
        (describe(lambda info: info.update(data_path="{chunk_index.__class__}")), "fields that are not known"),
        (drop("action"), "the rows .* cannot be read: there is no column action"),
        (drop("task_index"), "there is no column task_index"),
        (drop("observation.images.wrist"), "the pictures observation.images.wrist of .* cannot be read"),
        (lambda folder: (folder / "meta/info.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "meta/info.json").write_text("[]"), "holds no features"),
        (lambda folder: (folder / "meta/info.json").unlink(), "is no LeRobot data set"),
        (lambda folder: (folder / "meta/tasks.parquet").write_bytes(b"PAR1"), "the tasks .* cannot be read"),
        (lambda folder: (folder / "meta/streaming_vla.json").write_text('{"state_units": [1]}'), "expected 3 of type"),
        (
            lambda folder: next(folder.glob("data/*/*.parquet")).write_bytes(b"PAR1" + b"\0" * 40),
            "the rows .* cannot be read",
        ),
        (
            lambda folder: next(folder.glob("meta/episodes/*/*.parquet")).unlink(),
            "has no meta/episodes/chunk-000/file-000.parquet",
        ),
    ],
)
def test_a_damaged_set_is_one_sentence(tmp_path: Path, change: Change, sentence: str) -> None:
    folder = make_set(tmp_path / "set")
    change(folder)
    with pytest.raises(DatasetError, match=sentence) as refusal, Dataset(folder) as data:
        for entry in data.entries:
            episode = data.episode(entry)
            for camera in data.facts.cameras:
                list(data.pictures(episode, camera.name))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("limit", "largest"), [("LARGEST_VALUES", 300), ("LARGEST_BYTES", 1500)])
@pytest.mark.parametrize("what", ["the rows", "the episodes"])
def test_a_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, largest: int, what: str
) -> None:
    """A few kilobytes may be one number a billion times over: what the file says of itself is looked at first."""
    folder = make_set(tmp_path / "set", (200,) if what == "the rows" else (1,) * 150)
    monkeypatch.setattr(tables, limit, largest)
    with pytest.raises(DatasetError, match=rf"{what} .* hold \d+ values in \d+ bytes, more"), Dataset(folder) as data:
        data.episode(data.entries[0])


def test_a_row_too_few_is_refused(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    change_rows(folder, lambda table: table.slice(0, 30))
    with Dataset(folder) as data, pytest.raises(DatasetError, match=r"episode 1 .* has 10 rows in .* its list says 12"):
        data.episode(data.entries[1])


@pytest.mark.parametrize("names", [{"motors": ["a", "b"], "grip": ["c"]}, {"a": 0, "c": 2, "b": 1}, ["a", "b", "c"]])
def test_names_may_be_grouped(tmp_path: Path, names: object) -> None:
    folder = make_set(tmp_path / "set")
    change_information(folder, lambda info: info["features"]["action"].update(names=names))
    with Dataset(folder) as data:
        assert data.facts.action_names == ("a", "b", "c")


def test_colours_may_come_first_in_a_shape(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    change_information(
        folder,
        lambda info: info["features"]["observation.images.front"].update(
            shape=[3, 48, 64], names=["channels", "height", "width"]
        ),
    )
    expect(folder)


def test_the_span_of_a_film_is_compared_with_the_steps(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", storage=Storage.film)
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = parquet.read_table(path)
    name = "videos/observation.images.front/to_timestamp"
    parquet.write_table(with_column(table, name, [0.8, 32 / 30]), path)
    (sentence,) = [each for each, _ in findings(folder)]
    assert "episode 0 has 20 steps, its list gives camera front from 0.0000 to 0.8000 s" in sentence
    assert "episode 1 has 12 steps" not in sentence


def test_single_steps_are_read_by_themselves(tmp_path: Path) -> None:
    for storage in (Storage.png, Storage.film):
        with Dataset(make_set(tmp_path / storage.value, storage=storage)) as data:
            episode = data.episode(data.entries[1])
            shown = [int(each.mean()) for each in data.pictures(episode, "front", [11, 0, 5, 6])]
            assert np.abs(np.array(shown) - [54, 10, 30, 34]).max() <= 2


def test_vectors_of_one_number_are_numbers(tmp_path: Path) -> None:
    """As lerobot stores them: without a list around."""
    steps = [replace(step, state=step.state[:1], action=step.action[:1]) for step in steps_of((5, 3))]
    facts = replace(FACTS, state_names=("a",), action_names=("a",), action_absolute=(True,))
    write_dataset(tmp_path / "set", steps, facts, Storage.png)
    table = parquet.read_table(next((tmp_path / "set").glob("data/*/*.parquet")))
    assert table.schema.field("action").type == pa.float32()
    with Dataset(tmp_path / "set") as data:
        assert data.episode(data.entries[0]).action.shape == (5, 1)


def test_large_sets_have_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join.layout, "DATA_FILE_MB", 1e-4)
    monkeypatch.setattr(join.layout, "FILES_OF_A_CHUNK", 2)
    folder = make_set(tmp_path / "set", (4, 5, 6, 3, 7), Storage.film)
    assert len(list(folder.glob("data/*/*.parquet"))) == 5 and len(list(folder.glob("data/*"))) == 3
    expect(folder, (4, 5, 6, 3, 7), within=2.0)


def test_times_of_a_long_episode_are_kept_in_64_bits(tmp_path: Path) -> None:
    """32 bits are off by more than 1e-4 s behind 34 minutes."""
    rate = Fraction(30000, 1001)
    kept = {}
    small = Camera("front", 8, 8)
    (step,) = steps_of((1,), [small])
    for seconds in (1900, 3600):
        count = int(seconds * rate)
        folder = tmp_path / str(seconds)
        write_dataset(folder, (step for _ in range(count)), replace(FACTS, rate=rate, cameras=(small,)), Storage.png)
        table = parquet.read_table(next(folder.glob("data/*/*.parquet")), columns=["timestamp"])
        told = json.loads((folder / "meta/info.json").read_text())["features"]["timestamp"]["dtype"]
        kept[seconds] = (told, table["timestamp"].to_numpy().dtype)
        assert np.abs(table["timestamp"].to_numpy() - np.arange(count) * float(1 / rate)).max() < 1e-4
        assert not findings(folder)
    assert kept == {1900: ("float32", np.float32), 3600: ("float64", np.float64)}


@pytest.mark.parametrize("what", ["state", "action"])
def test_what_is_not_finite_is_not_written(tmp_path: Path, what: str) -> None:
    steps = [replace(step, **{what: np.array([0, np.nan, 1], np.float32)}) for step in steps_of((3,))]
    with pytest.raises(DatasetError, match=f"the {what} of a step is .* expected finite numbers"):
        write_dataset(tmp_path / "set", steps, FACTS, Storage.png)
    assert list(tmp_path.iterdir()) == []


def test_pictures_keep_their_size(tmp_path: Path) -> None:
    other = list(steps_of((3,), [replace(CAMERAS[0], width=80), CAMERAS[1]]))
    with pytest.raises(DatasetError, match="camera front sends 80x48 px after 64x48 px"):
        write_dataset(tmp_path / "set", [*steps_of((3,)), *other], FACTS, Storage.png)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    with pytest.raises(DatasetError, match="exists already: choose another folder"):
        make_set(folder)
    with pytest.raises(DatasetError, match="there is no episode to write"):
        write_dataset(tmp_path / "none", iter([]), FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_old_lists_are_checked(tmp_path: Path) -> None:
    folder = make_old_set(tmp_path / "old")
    listed = [json.loads(line) for line in (folder / "meta/episodes.jsonl").read_text().splitlines()]
    for entries, sentence in (
        ([*listed, listed[0]], "episode 0 of data set .* is listed twice"),
        ([{"episode_index": 0}], "the episodes of data set .* cannot be read"),
        ([{**listed[0], "length": -3}], "has -3 steps"),
        ([], "lists no episode"),
    ):
        lines(folder / "meta/episodes.jsonl", entries)
        with pytest.raises(DatasetError, match=sentence):
            Dataset(folder)
    (folder / "meta/episodes.jsonl").write_text("[1]\n")
    with pytest.raises(DatasetError, match=r"line 1 of .* is no object"):
        Dataset(folder)
