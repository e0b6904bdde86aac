"""The report of a data set: every kind of oddity is found where it was put, and a good set has none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from sets import CAMERAS, FACTS, GOLDEN, make_set, photograph

from streaming_vla.datasets.dataset import Dataset
from streaming_vla.datasets.parts import Storage
from streaming_vla.datasets.writer import Step, write_dataset
from streaming_vla.workbench.inspect.command import inspect
from streaming_vla.workbench.inspect.survey import Survey, survey

FRONT = CAMERAS[:1]
VIEW = photograph(48, 64 + 128, 0)


def smooth(lengths: tuple[int, ...] = (90, 60), state: float = 1.0, task: str = "wave") -> Iterator[Step]:
    """Yield a robot that waves at 30 Hz; it is told where to be two steps later, and the camera pans."""
    for episode, count in enumerate(lengths):
        for step in range(count):
            at = np.array([np.sin(0.07 * (step + each) + episode) for each in (0.0, 9.0, 18.0)])
            told = np.array([np.sin(0.07 * (step + 2 + each) + episode) for each in (0.0, 9.0, 18.0)])
            picture = np.ascontiguousarray(VIEW[:, step % 128 : step % 128 + 64])
            yield Step(episode, task, {"front": picture}, (state * at).astype(np.float32), told.astype(np.float32))


def looked(folder: Path, steps: Iterator[Step], storage: Storage = Storage.png, **given: object) -> Survey:
    facts = replace(FACTS, cameras=FRONT, action_absolute=(True,) * 3)
    write_dataset(folder, steps, facts, storage)
    with Dataset(folder) as data:
        return survey(data, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("storage", Storage)
def test_a_good_set_has_no_oddity(tmp_path: Path, storage: Storage) -> None:
    found = looked(tmp_path / "set", smooth(), storage)
    assert not found.findings and not found.pauses and not found.jumps
    assert found.lengths == {0: 90, 1: 60} and found.tasks == {"wave": 150}
    assert found.repeated == {"front": 0.0} and found.looked_at == [0, 1]
    assert all(
        sum(each.counts) == 150 and -1 <= each.low < each.q01 < each.q99 < each.high <= 1 for each in found.action
    )
    assert all(usual < most <= 0.141 for most, usual in found.apart.values())


@pytest.mark.parametrize("storage", [Storage.png, Storage.film])
def test_dropped_frames_are_counted(tmp_path: Path, storage: Storage) -> None:
    def dropping() -> Iterator[Step]:
        seen: Step | None = None
        for place, step in enumerate(smooth((100,))):
            seen = step if place % 10 < 7 or seen is None else replace(step, pictures=seen.pictures)
            yield seen

    assert looked(tmp_path / "set", dropping(), storage).repeated["front"] == pytest.approx(0.3, abs=0.011)


def test_pauses_are_found(tmp_path: Path) -> None:
    def pausing() -> Iterator[Step]:
        before: Step | None = None
        for place, step in enumerate(smooth((120,))):
            still = 30 <= place < 60 or 80 <= place < 90  # a second, and a third of one
            before = replace(step, state=before.state) if still and before is not None else step
            yield before

    assert looked(tmp_path / "set", pausing()).pauses == [(0, pytest.approx(29 / 30), pytest.approx(59 / 30))]


@pytest.mark.parametrize("what", ["state", "action"])
def test_jumps_are_found(tmp_path: Path, what: str) -> None:
    def jumping() -> Iterator[Step]:
        for place, step in enumerate(smooth((300,))):
            yield replace(step, **{what: getattr(step, what) + np.float32([0, 5 * (place >= 120), 0])})

    (jump,) = looked(tmp_path / "set", jumping()).jumps
    assert jump[:2] == (0, 120) and re.match(rf"{what} b by (4\.9|5)", jump[2])


def test_actions_outside_of_the_limits_are_told(tmp_path: Path) -> None:
    found = looked(tmp_path / "set", smooth(), limits={"a": (-0.5, 2.0), "b": (-2.0, 2.0)})
    (finding,) = found.findings
    share = np.mean([(step.action[0] < -0.5) for step in smooth()])
    assert finding.sentence.startswith(
        f"action a lies outside of -0.5 to 2 in {100 * share:.3g} % of the steps (from -"
    )


@pytest.mark.parametrize("factor", [180 / np.pi, np.pi / 180])
def test_degrees_beside_radians_are_told(tmp_path: Path, factor: float) -> None:
    found = looked(tmp_path / "set", smooth(state=factor))
    assert [each.sentence for each in found.findings] == [
        f"state and action {name} differ by a factor of 57: one looks like degrees, the other like radians"
        for name in FACTS.action_names
    ]


def test_what_cannot_be_read_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set", (20, 12, 9), Storage.film)
    next(folder.glob("videos/observation.images.wrist/*/*.mp4")).unlink()
    with Dataset(folder) as data:
        found = survey(data)
    assert any("observation.images.wrist" in each.sentence and each.fatal for each in found.findings)
    assert found.lengths == {0: 20, 1: 12, 2: 9}


def test_pictures_of_some_episodes_are_looked_at(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with Dataset(make_set(tmp_path / "set", (3,) * 9)) as data:
        found = survey(data, most_filmed=3, done=lambda *now: told.append(now))
    assert found.looked_at == [0, 4, 8] and told == [(1, 3), (2, 3), (3, 3)]


def test_the_page_needs_nothing_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def two_tasks() -> Iterator[Step]:
        for step in smooth((40, 30)):
            yield replace(step, task="wave <b>wildly</b>" if step.episode else "wave")

    looked(tmp_path / "set", two_tasks(), Storage.film)
    params = tmp_path / "robot.yaml"
    layout = {"action_names": list(FACTS.action_names), "action_absolute": [True] * 3, "action_low": [-0.5] * 3,
              "action_high": [0.5] * 3, "action_initial": [0.0] * 3}  # fmt: skip
    executor = {"scale": [1.0] * 3, "maximum_lead": [0.3] * 3, "keep_when_stopped": [False] * 3,
                "velocity_limit": [20.0] * 3, "jump_limit": [2.0] * 3}  # fmt: skip
    sections = {"/**": layout, "/**/executor": executor}
    params.write_text(yaml.safe_dump({name: {"ros__parameters": values} for name, values in sections.items()}))
    inspect(tmp_path / "set", tmp_path / "out", params)
    page = (tmp_path / "out/report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script" not in page and "<b>wildly" not in page
    assert page.count("data:image/jpeg;base64,") == 16 and page.count("data:image/png;base64,") == 3
    for said in ("wave &lt;b&gt;wildly", "40 steps", "30 steps", "64x48 px, video", "lies outside of -0.5 to 0.5"):
        assert said in page
    held = json.loads((tmp_path / "out/report.json").read_text())
    assert held["lengths"] == {"0": 40, "1": 30} and len(held["findings"]) == 3
    printed = capsys.readouterr().out
    assert printed.count("lies outside of -0.5 to 0.5") == 3 and "Written:" in printed


def test_the_golden_set_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(GOLDEN / "so101_video", tmp_path / "out")
    assert "nothing is wrong with it" in capsys.readouterr().out
    with pytest.raises(typer.Exit):
        inspect(tmp_path, tmp_path / "out")
    assert "is no LeRobot data set" in capsys.readouterr().err
