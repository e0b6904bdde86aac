"""The film of two episodes: a picture of every moment, red where the arm halts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from episodes import make_episode
from film import FRAME_S, GAP, HEAD, LAST_S, SIZE, TITLE, draw_film
from PIL import Image

from streaming_vla.workbench.report.records import EpisodeRecord, Frame
from streaming_vla.workbench.report.timeline import stretches


def grey(place: int) -> int:
    """Return the grey of a picture; those that follow each other differ by more than the film's coding loses."""
    return 40 + 40 * (place % 5)


def filmed(mode: str) -> EpisodeRecord:
    """Return an episode with a grey picture of every control period."""
    record = make_episode(mode, contexts=3)
    count = int(record.duration_s / record.control_period_s) + 1
    record.frames = [
        Frame(
            record.begin_s + place * record.control_period_s,
            "corner2",
            np.full((SIZE, SIZE, 3), grey(place), np.uint8),
        )
        for place in range(count)
    ]
    return record


def is_red(sheet: npt.NDArray[np.uint8], place: int) -> bool:
    """Whether the frame of a picture is red, 0 the left one."""
    colour = sheet[TITLE + HEAD + SIZE // 2, GAP + place * (SIZE + GAP) + 2].astype(int)
    return bool(colour[0] > 150 and colour[1] < 90)


def test_two_episodes_side_by_side(tmp_path: Path) -> None:
    records = [filmed("synchronous"), filmed("streaming")]
    path = tmp_path / "film.webp"
    draw_film(records, "made by hand", path)
    film = Image.open(path)
    longest_s = max(record.duration_s for record in records)
    assert film.n_frames == math.ceil(longest_s / FRAME_S) + 1
    halts = [part for part in stretches(records[0]) if part.halted]
    red = [0, 0]
    for number in range(film.n_frames):
        film.seek(number)
        film.load()
        sheet = np.asarray(film.convert("RGB"))
        at_s = records[0].begin_s + number * FRAME_S
        assert is_red(sheet, 0) == any(part.begin_s <= at_s < part.end_s for part in halts)
        red = [red[place] + is_red(sheet, place) for place in (0, 1)]
        shown = min(number, len(records[0].frames) - 1)
        assert abs(int(sheet[TITLE + HEAD + SIZE // 2, GAP + SIZE // 2].mean()) - grey(shown)) < 20
    assert red[0] > 0 and red[1] == 0
    assert film.info["duration"] == round(1000 * LAST_S)
