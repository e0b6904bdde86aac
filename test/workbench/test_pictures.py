"""Timelines and film strips: drawn from records, with the executor's time accounted for to the last millisecond."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from episodes import HORIZON, PERIOD_S, PREPARE_S, STEP_S, make_episode, stopped_episode
from matplotlib.figure import Figure
from PIL import Image

from streaming_vla.workbench.report import timeline
from streaming_vla.workbench.report.filmstrip import draw_filmstrip
from streaming_vla.workbench.report.timeline import draw_timeline, stretches


def test_stretches_cover_the_episode_without_gaps() -> None:
    record = make_episode("synchronous", contexts=3)
    parts = stretches(record)
    assert parts[-1].end_s == record.end_s
    assert all(before.end_s == after.begin_s for before, after in pairwise(parts))
    halts = [part for part in parts if part.halted]
    assert [part.end_s - part.begin_s for part in halts] == pytest.approx(2 * [PREPARE_S + HORIZON * STEP_S])
    played = [part for part in parts if not part.halted]
    assert len(played) == 3 * HORIZON
    assert all(part.end_s - part.begin_s == pytest.approx(PERIOD_S) for part in played)


def test_a_streaming_episode_has_no_halt() -> None:
    assert not any(part.halted for part in stretches(make_episode("streaming")))


def test_timeline_is_drawn_and_only_the_synchronous_panel_is_red(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    draw_timeline(make_episode("synchronous"), make_episode("streaming"), path)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape[1] == 2400
    red = (picture[..., 0] > 180) & (picture[..., 1] < 80) & (picture[..., 2] < 90)
    bars = red[:, 350:2350].sum(axis=1)  # without labels and titles at the sides
    height = picture.shape[0]
    assert bars[int(0.22 * height) : int(0.33 * height)].sum() > 300
    assert bars[int(0.45 * height) : int(0.68 * height)].sum() == 0


@pytest.mark.parametrize(("contexts", "shown_s"), [(2, 1.25), (8, 2.0)])
def test_the_timeline_ends_with_short_episodes_and_says_what_is_compared(
    contexts: int, shown_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(timeline.plt, "close", figures.append)
    above, below = make_episode("synchronous", contexts), make_episode("streaming", contexts)
    draw_timeline(above, below, tmp_path / "timeline.png", titles={"synchronous": "in turns"}, about="on a Monday")
    panels = figures[0].axes[:2]
    assert [axis.get_xlim()[1] for axis in panels] == [shown_s, shown_s]
    assert [axis.get_title(loc="left") for axis in panels] == ["in turns", "streaming"]
    assert panels[0].get_title(loc="right").endswith(f"of these {shown_s:g} s")
    assert figures[0].texts[-1].get_text() == "“open the door”  (task door-open, seed 10000, on a Monday)"


def test_timeline_refuses_an_episode_without_an_action(tmp_path: Path) -> None:
    empty = make_episode("streaming")
    empty.states = []
    with pytest.raises(ValueError, match="streaming episode of task door-open has no action to draw"):
        draw_timeline(make_episode("synchronous"), empty, tmp_path / "timeline.png")


def test_film_strip_shows_both_cameras_at_every_moment(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    draw_filmstrip(make_episode("streaming"), path, columns=6, size=64)
    picture = Image.open(path)
    assert picture.size == (2 * 14 + 6 * 64 + 5 * 6, 44 + 2 * 70 + 26)
    first, last = picture.getpixel((14 + 32, 44 + 50)), picture.getpixel((14 + 5 * 70 + 32, 44 + 50))
    assert first == (60, 60, 60) and last == (200, 200, 200)


def test_film_strip_of_a_stop_has_a_red_line_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    draw_filmstrip(stopped_episode(), path, columns=6, size=64)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape[0] == 44 + 2 * 70 + 26 + 24
    line = picture[-24:]
    assert ((line[..., 0] > 180) & (line[..., 1] < 80)).sum() > 100


def test_film_strip_refuses_an_episode_without_a_picture(tmp_path: Path) -> None:
    record = make_episode()
    record.frames = []
    with pytest.raises(ValueError, match="no camera picture was recorded"):
        draw_filmstrip(record, tmp_path / "strip.png")
