"""Many bags into one data set: in their order, in parallel, resumed, and what fails loses nothing."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robots import IMAGE, commands, export, image, in_time, options, pictures, read, sound, states, stream, tasks, write

from streaming_vla.bags.errors import BagError
from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.workbench.export import run
from streaming_vla.workbench.export.run import export_all


def many(folder: Path, count: int = 4) -> list[Path]:
    return [write(folder / f"bag{number}", stream(1.0 + 0.2 * number)) for number in range(count)]


def test_bags_come_in_their_order_whatever_finishes_first(tmp_path: Path) -> None:
    bags = many(tmp_path)
    random.Random(0).shuffle(bags)
    export(bags, tmp_path / "one")
    export_all(bags, tmp_path / "two", options(), workers=2)
    for number, bag in enumerate(bags):
        one, two = read(tmp_path / "one", number), read(tmp_path / "two", number)
        assert all(np.array_equal(*both) for both in zip(one, two, strict=True))
        assert abs(len(one[0]) - (20 + 4 * int(bag.name[-1]))) <= 1
    own = json.loads((tmp_path / "one/meta/streaming_vla.json").read_text())
    assert own["sources"] == [{"source": str(bag), "episodes": [n, n + 1]} for n, bag in enumerate(bags)]
    sound(tmp_path / "two")


def test_an_export_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bags = many(tmp_path)
    made: list[str] = []
    whole = run.export_bag

    def counted(path: Path, *rest: Any) -> Any:
        if path.name == "bag2" and "stopped" not in made:
            made.append("stopped")
            raise KeyboardInterrupt
        part = whole(path, *rest)
        made.append(path.name)
        return part

    monkeypatch.setattr(run, "export_bag", counted)
    with pytest.raises(KeyboardInterrupt):
        export(bags, tmp_path / "set")
    kept = tmp_path / ".set.partial"
    assert made == ["bag0", "bag1", "stopped"] and not (tmp_path / "set").exists()
    before = {path: path.stat().st_mtime_ns for path in kept.glob("bag[01]-*/rows.parquet")}
    assert len(before) == 2
    (kept / "bag0-of-other-options").mkdir()
    export(bags, tmp_path / "set")
    assert made[3:] == ["bag0", "bag1", "bag2", "bag3"]  # the first two return at once what is there
    assert len(tasks(tmp_path / "set")) == 4 and not kept.exists()
    export(bags, tmp_path / "again")
    for number in range(4):
        one, two = read(tmp_path / "set", number), read(tmp_path / "again", number)
        assert all(np.array_equal(*both) for both in zip(one, two, strict=True))


def test_parts_of_other_bags_or_options_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write(tmp_path / "bag", stream(1.0))
    monkeypatch.setattr(run, "join_parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export(bag, tmp_path / "set")
    (kept,) = (tmp_path / ".set.partial").glob("bag-*")
    monkeypatch.undo()
    export(bag, tmp_path / "set", options(square=8))
    with Dataset(tmp_path / "set") as data:
        assert data.facts.cameras[0].height == 8
    assert not kept.exists()


def test_two_exports_do_not_write_the_same_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write(tmp_path / "bag", stream(1.0))
    whole = run.join_parts

    def join(*given: Any) -> int:
        with pytest.raises(DatasetError, match=r"another export is writing into .*\.set\.partial: wait for it"):
            export(bag, tmp_path / "set")
        return whole(*given)

    monkeypatch.setattr(run, "join_parts", join)
    assert export(bag, tmp_path / "set").episodes == 1


def test_a_bag_that_fails_does_not_lose_the_others(tmp_path: Path) -> None:
    bags = many(tmp_path, 3)
    said = in_time(stream(1.0), [("/camera/front/image", IMAGE, image(9, (32, 32)), 0.5)])
    bad = write(tmp_path / "bad", said)
    with pytest.raises(BagError, match=r"bad: camera front sends .*\n3 finished bags are kept in .*\.set\.partial"):
        export([*bags, bad], tmp_path / "set")
    assert export(bags, tmp_path / "set").episodes == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "bag0", "bag1", "bag2", "set"]


def test_nothing_begins_where_a_bag_cannot_be_used(tmp_path: Path) -> None:
    bags = [*many(tmp_path, 2), tmp_path / "none", write(tmp_path / "blind", states(1.0))]
    with pytest.raises(BagError, match=r"none.*\n.*blind has no picture topic") as refusal:
        export(bags, tmp_path / "set")
    assert str(refusal.value).count("\n") == 1
    assert not (tmp_path / ".set.partial").exists()
    with pytest.raises(BagError, match="is named twice"):
        export([bags[0], bags[0]], tmp_path / "set")
    (tmp_path / "set").mkdir()
    with pytest.raises(DatasetError, match="exists already"):
        export(bags[:2], tmp_path / "set")


def test_a_bag_without_a_step_is_told(tmp_path: Path) -> None:
    bags = [*many(tmp_path, 1), write(tmp_path / "short", [*pictures(1.0), *states(1.0), *commands(1.0, begin_s=50.0)])]
    done = export(bags, tmp_path / "set")
    assert done.episodes == 1
    assert done.problems[-1].endswith(
        "short gives no step: pictures, state and commands are never there at the same time"
    )


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[float, float]] = []
    export_all(many(tmp_path, 2), tmp_path / "set", options(), 1, lambda now, total: told.append((now, total)))
    assert told[-1][0] == pytest.approx(told[-1][1]) and 2.0 < told[-1][1] < 2.4


def test_options_that_make_no_sense_are_refused() -> None:
    for given, sentence in (({"square": 0}, "--square is 0"), ({"longest_gap_s": 0.0}, "--longest-gap is 0")):
        with pytest.raises(ValueError, match=sentence):
            options(**given)
    with pytest.raises(ValueError, match="camera_topics has 1 topics"):
        options({"observer": {"cameras": ("front", "wrist")}})
    with pytest.raises(ValueError, match="scale has 2 values"):
        options({"executor": {"scale": (1.0, 2.0)}})
    assert replace(options().steps, size=3).size == 3
