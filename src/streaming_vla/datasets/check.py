"""What is wrong with a data set: found by reading it, without changing anything.

Some of it only other tools stumble over; what nothing can be learned from is refused by a training too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streaming_vla.datasets import layout
from streaming_vla.datasets.dataset import Dataset, Episode
from streaming_vla.datasets.episodes import EpisodeEntry
from streaming_vla.datasets.errors import DatasetError
from streaming_vla.datasets.facts import FILM, read_information, read_json
from streaming_vla.datasets.films import TOLERANCE_S, film_times
from streaming_vla.datasets.stats import QUANTILES

FLOAT32 = np.finfo(np.float32).eps


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in one sentence.

    Args:
        fatal: nothing can be learned from it; else it is told only.
    """

    sentence: str
    fatal: bool


def check_episode(data: Dataset, episode: Episode) -> Iterator[Finding]:
    """Yield what is wrong with the numbers of one episode."""
    number, count = episode.entry.number, len(episode)
    name = f"episode {number} of data set '{data.folder}'"
    if not count:
        yield Finding(f"{name} has no steps", True)
        return
    if count == 1:
        yield Finding(f"{name} has one step only, of which no motion can be learned", False)
    if (wrong := np.flatnonzero(episode.frame_index != np.arange(count))).size:
        there = episode.frame_index[wrong[0]]
        yield Finding(
            f"{name} has frame_index {there} where {wrong[0]} is expected: a step is missing or stands there twice",
            True,
        )
    elif (np.diff(episode.places) < 0).any():
        yield Finding(f"the rows of {name} are not in the order of frame_index: they are put in order here, "
                      "lerobot takes them as they lie", False)  # fmt: skip
    yield from _times(data, episode, name)
    for what, values in (("state", episode.state), ("action", episode.action)):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            yield Finding(f"{name} has a {what} that is not finite at step {bad[0]} ({bad.size} of {count} steps): "
                          "leave the episode out, or export its recording again", True)  # fmt: skip
    try:
        said = list(dict.fromkeys(data.instructions(episode)))
    except DatasetError as error:
        yield Finding(str(error), True)
        return
    if not all(task.strip() for task in said):
        yield Finding(f"{name} has an empty instruction", True)
    if set(said) != set(episode.entry.tasks):
        yield Finding(f"{name} lists the tasks {_quoted(episode.entry.tasks)}, its steps have {_quoted(said)}: "
                      "the steps count", False)  # fmt: skip
    if episode.entry.first is not None and (episode.index != episode.entry.first + np.arange(count)).any():
        yield Finding(f"the index of {name} does not count up from {episode.entry.first}, which is where lerobot looks "
                      "for its steps", False)  # fmt: skip


def _times(data: Dataset, episode: Episode, name: str) -> Iterator[Finding]:
    due = np.arange(len(episode)) / data.facts.fps
    allowed = TOLERANCE_S + FLOAT32 * due  # they are mostly stored as 32 bit floats
    wrong = np.flatnonzero(~(np.abs(episode.timestamp - due) <= allowed))
    if wrong.size:
        at = wrong[0]
        yield Finding(
            f"{name} has time {episode.timestamp[at]:.4f} s at step {at}, at {data.facts.fps:g} steps a second it is "
            f"{due[at]:.4f} s: correct fps in {layout.INFO}, or write the data set again",
            True,
        )


def check_whole(data: Dataset) -> Iterator[Finding]:
    """Yield what is wrong with the data set beside its episodes' numbers."""
    folder, facts = data.folder, data.facts
    if facts.version == layout.OLD_VERSION:
        yield Finding(f"'{folder}' is of version {layout.OLD_VERSION}: lerobot 0.4 and later wants it converted", False)
    if facts.unused:
        yield Finding(f"not used here: {', '.join(f'{name} ({kind})' for name, kind in facts.unused.items())}", False)
    information = read_information(folder)
    frames = sum(entry.length for entry in data.entries)
    for name, count in (("episodes", len(data.entries)), ("frames", frames), ("tasks", len(data.tasks))):
        told = information.get(f"total_{name}")
        if told != count:
            yield Finding(f"{layout.INFO} tells {told} {name}, there are {count}", False)
    numbers = [entry.number for entry in data.entries]
    if numbers != list(range(len(numbers))):
        missing = sorted(set(range(numbers[-1] + 1)) - set(numbers))
        yield Finding(f"episodes {_few(missing)} are missing in the list, as after deleting: lerobot counts them by "
                      "their place and would take others for them", False)  # fmt: skip
    if list(data.tasks) != list(range(len(data.tasks))):
        yield Finding(f"the tasks have the indices {_few(list(data.tasks))}: lerobot takes them by their place", False)
    yield from _orphans(data)
    yield from _statistics(data)


def _orphans(data: Dataset) -> Iterator[Finding]:
    listed = {entry.number for entry in data.entries}
    for path in dict.fromkeys(entry.path for entry in data.entries):
        try:
            there = set(data.rows(path).episode_index.tolist())
        except DatasetError:
            continue  # its episodes tell
        if left := sorted(there - listed):
            yield Finding(f"'{path}' has rows of episodes {_few(left)}, which are not listed: they are left out here, "
                          "lerobot mixes them up with others", False)  # fmt: skip


def _statistics(data: Dataset) -> Iterator[Finding]:
    if data.facts.version == layout.OLD_VERSION:
        return
    path = data.folder / layout.STATS
    if not path.is_file():
        yield Finding(f"{layout.STATS} is missing: lerobot's trainings need it", False)
        return
    held = read_json(path, "the statistics of a data set")
    for name in (layout.STATE, layout.ACTION, *(camera.feature for camera in data.facts.cameras)):
        lacking = [each for each in ("mean", "std", "min", "max", *QUANTILES) if each not in held.get(name, {})]
        if lacking:
            yield Finding(
                f"{layout.STATS} has no {', '.join(lacking)} of {name}: trainings that scale by it fail", False
            )


def check_films(data: Dataset) -> Iterator[Finding]:
    """Yield what is wrong with the films: they are read through, but not decoded."""
    for camera in data.facts.cameras:
        if camera.stored != FILM:
            continue
        for path in dict.fromkeys(entry.films[camera.name].path for entry in data.entries):
            try:
                times = np.array(film_times(path))
            except DatasetError as error:
                yield Finding(str(error), True)
                continue
            entries = [entry for entry in data.entries if entry.films[camera.name].path == path]
            for entry in entries:
                yield from _span(data, entry, camera.name)
                yield from _film(data, entry.number, entry.length, entry.films[camera.name].from_s, times, str(path))
            if len(entries) > 1 and times[-1] > 1024.0:
                yield Finding(
                    f"the film '{path}' of several episodes is {times[-1]:.0f} s long: behind 1024 s lerobot refuses "
                    "single frames, as it compares times as 32 bit floats",
                    False,
                )


def _span(data: Dataset, entry: EpisodeEntry, camera: str) -> Iterator[Finding]:
    place = entry.films[camera]
    if place.to_s is not None and abs(place.to_s - place.from_s - entry.length / data.facts.fps) > 0.5 / data.facts.fps:
        yield Finding(
            f"episode {entry.number} has {entry.length} steps, its list gives camera {camera} from {place.from_s:.4f} "
            f"to {place.to_s:.4f} s: the steps count, tools that cut films go wrong",
            False,
        )


def _film(data: Dataset, number: int, length: int, from_s: float, times: np.ndarray, path: str) -> Iterator[Finding]:
    due = from_s + np.arange(length) / data.facts.fps
    places = np.clip(np.searchsorted(times, due - 0.5 / data.facts.fps), 0, len(times) - 1)
    away = np.abs(times[places] - due)
    if (away >= TOLERANCE_S).any():
        at = int(np.argmax(away >= TOLERANCE_S))
        yield Finding(
            f"the film '{path}' has no frame for step {at} of episode {number}: it is due at {due[at]:.4f} s, the "
            f"nearest is at {times[places[at]]:.4f} s",
            True,
        )


def checked(data: Dataset, episode: Episode) -> Episode:
    """Return an episode that can be learned from; DatasetError says why it cannot."""
    for finding in check_episode(data, episode):
        if finding.fatal:
            raise DatasetError(finding.sentence)
    return episode


def _quoted(tasks: object) -> str:
    return ", ".join(f"'{task}'" for task in tasks)  # type: ignore[attr-defined]


def _few(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
