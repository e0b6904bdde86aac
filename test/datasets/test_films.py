"""Films: exact times for an hour, no shift of colours, frames in any order, put together without a loss."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from sets import photograph

from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.films import COMMON_COLOURS, EXACT_COLOURS, FilmReader, FilmWriter, film_times
from streaming_vla.datasets.joining import JoinedFilm

RATES = [Fraction(30), Fraction(30000, 1001), Fraction(20), Fraction(1000, 7), Fraction(1, 2)]


def write(path: Path, rate: Fraction, count: int, first: int = 0, size: tuple[int, int] = (16, 16)) -> Path:
    with FilmWriter(path, rate, *size) as film:
        for number in range(first, first + count):
            film.write(np.full((*size, 3), 8 * number % 256, np.uint8))
    return path


@pytest.mark.parametrize("rate", RATES)
def test_times_are_exact(tmp_path: Path, rate: Fraction) -> None:
    times = np.array(film_times(write(tmp_path / "film.mp4", rate, 500)))
    assert np.abs(times - np.arange(500) * float(1 / rate)).max() < 1e-6


@pytest.mark.parametrize("rate", RATES[:3])
def test_times_are_exact_for_an_hour(tmp_path: Path, rate: Fraction) -> None:
    """Of 240 films one behind the other; one file is as long as lerobot's clock allows."""
    count = int(15 * rate)
    film = write(tmp_path / "film.mp4", rate, count)
    joined = JoinedFilm(rate)
    places = [joined.add(film, count, lambda number: tmp_path / f"all{number}.mp4") for _ in range(240)]
    joined.close()
    assert {number for number, _, _ in places} == {0, 1, 2, 3}
    for number in range(4):
        mine = [(begin_s, end_s) for file, begin_s, end_s in places if file == number]
        times = np.array(film_times(tmp_path / f"all{number}.mp4"))
        assert len(times) == count * len(mine)
        due = np.concatenate([begin_s + np.arange(count) * float(1 / rate) for begin_s, _ in mine])
        assert np.abs(times - due).max() < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_colours_do_not_shift(tmp_path: Path, seed: int) -> None:
    """As every reader sees them: the conversion of PyAV and OpenCV rounds down where colours are averaged."""
    picture = photograph(240, 320, seed)
    with FilmWriter(tmp_path / "film.mp4", Fraction(30), 240, 320) as film:
        for shift in range(6):
            film.write(np.roll(picture, 3 * shift, axis=1))
    errors = []
    with av.open(str(tmp_path / "film.mp4")) as container:
        for shift, frame in enumerate(container.decode(video=0)):
            errors.append(frame.to_ndarray(format="bgr24").astype(int) - np.roll(picture, 3 * shift, axis=1))
    assert np.abs(np.mean(errors, axis=(0, 1, 2))).max() < 0.5
    assert np.abs(errors).mean() < 4.0


def test_the_common_format_is_rounded_where_it_is_written(tmp_path: Path) -> None:
    """Its readers may round down; what is in the file is right."""
    picture = photograph(240, 320, 0)
    with FilmWriter(tmp_path / "film.mp4", Fraction(30), 240, 320, COMMON_COLOURS) as film:
        film.write(picture)
    with av.open(str(tmp_path / "film.mp4")) as container:
        (frame,) = container.decode(video=0)
    rounded = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    shown = frame.reformat(format="bgr24", interpolation=rounded).to_ndarray().astype(int)
    assert np.abs((shown - picture).mean(axis=(0, 1))).max() < 0.5


@pytest.mark.parametrize("rate", RATES[:3])
def test_frames_are_found_in_any_order(tmp_path: Path, rate: Fraction) -> None:
    film = FilmReader(write(tmp_path / "film.mp4", rate, 31), rate, 16, 16)
    for number in [0, 1, 2, 17, 18, 5, 30, 29, 0, 0, 13]:
        pixels = film.frame(number, float(number / rate))
        assert abs(int(pixels.mean()) - 8 * number % 256) <= 2
    film.close()


@pytest.mark.parametrize("rate", RATES[:3])
@pytest.mark.parametrize("lengths", [(13, 30, 1, 16), (1, 1, 1), (2,)])
def test_films_are_put_together_frame_by_frame(tmp_path: Path, rate: Fraction, lengths: tuple[int, ...]) -> None:
    joined = JoinedFilm(rate)
    begin = 0
    for place, count in enumerate(lengths):
        film = write(tmp_path / f"{place}.mp4", rate, count, begin)
        at = joined.add(film, count, lambda number: tmp_path / f"all{number}.mp4")
        assert at == (0, float(begin / rate), float((begin + count) / rate))
        begin += count
    joined.close()
    times = np.array(film_times(tmp_path / "all0.mp4"))
    assert np.abs(times - np.arange(begin) * float(1 / rate)).max() < 1e-6
    reader = FilmReader(tmp_path / "all0.mp4", rate, 16, 16)
    shown = [int(reader.frame(number, float(number / rate)).mean()) for number in range(begin)]
    assert np.abs(np.array(shown) - 8 * np.arange(begin) % 256).max() <= 2
    reader.close()


def test_a_film_ends_before_lerobot_loses_its_clock(tmp_path: Path) -> None:
    """Its times are 32 bit floats: behind 1024 s they are further apart than the 1e-4 s that it allows."""
    rate = Fraction(1, 10)
    joined = JoinedFilm(rate)
    found = [
        joined.add(write(tmp_path / f"{place}.mp4", rate, 45), 45, lambda number: tmp_path / f"all{number}.mp4")
        for place in range(5)
    ]
    joined.close()
    assert [number for number, _, _ in found] == [0, 0, 1, 1, 2]
    assert all(end_s <= 1000.0 and end_s - begin_s == 450.0 for _, begin_s, end_s in found)


def test_films_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    joined = JoinedFilm(Fraction(30))
    for place, size in enumerate([(16, 16), (16, 16), (32, 16)]):
        film = write(tmp_path / f"{place}.mp4", Fraction(30), 4, size=size)
        joined.add(film, 4, lambda number: tmp_path / f"all{number}.mp4")
    joined.close()
    assert joined.number == 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4", Fraction(30), 10)
    with pytest.raises(DatasetError, match=r"is 16x16 px, meta/info.json says 20x16 px"):
        FilmReader(path, Fraction(30), 16, 20)
    film = FilmReader(path, Fraction(30), 16, 16)
    with pytest.raises(DatasetError, match="has fewer frames than steps"):
        film.frame(20, 20 / 30)
    film.close()
    film = FilmReader(path, Fraction(25), 16, 16)
    with pytest.raises(DatasetError, match=r"has no frame at 0.0400 s, the nearest is at 0.0333 s"):
        film.frame(1, 1 / 25)
    film.close()
    with pytest.raises(DatasetError, match="sizes must be even"):
        FilmWriter(tmp_path / "odd.mp4", Fraction(30), 15, 16, COMMON_COLOURS)
    with FilmWriter(tmp_path / "odd.mp4", Fraction(30), 15, 17, EXACT_COLOURS) as odd:
        odd.write(np.zeros((15, 17, 3), np.uint8))
        with pytest.raises(DatasetError, match="a picture is 16x15 px, the film's others are 17x15 px"):
            odd.write(np.zeros((15, 16, 3), np.uint8))
    (tmp_path / "none.mp4").write_bytes(path.read_bytes()[:100])
    for read in (film_times, lambda path: FilmReader(path, Fraction(30), 16, 16)):
        with pytest.raises(DatasetError, match="cannot be read"):
            read(tmp_path / "none.mp4")
