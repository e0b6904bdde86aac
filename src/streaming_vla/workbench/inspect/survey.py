"""What there is to say of a data set, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.datasets.check import Finding, check_episode, check_films, check_whole
from streaming_vla.datasets.dataset import Dataset, Episode
from streaming_vla.datasets.errors import DatasetError

BINS = 60
STILL = 0.01  # of the usual speed of a joint (its 90 % quantile): slower is a pause
LEAST_PAUSE_S = 0.5
JUMP = 8.0  # times the 99 % quantile of the change from step to step: more is a jump
SAME_LEVEL = 0.6  # of 255: pictures that differ by less on average are the same frame, coded once more
RADIANS = 180.0 / np.pi
NEAR = 0.15  # relative: so close to it a ratio is that of degrees to radians
Floats = npt.NDArray[np.float32]


@dataclass
class Dimension:
    """One number of the state or the action.

    counts [BINS] of its values in equal bins from `edges[0]` to `edges[1]`; `outside` is the share beyond the limits.
    """

    name: str
    low: float
    high: float
    q01: float
    q99: float
    counts: list[int]
    edges: tuple[float, float]
    limits: tuple[float, float] | None = None
    outside: float = 0.0


@dataclass
class Survey:
    """What there is to say of a data set.

    Args:
        findings: what is wrong.
        lengths: steps of each episode, by its number.
        tasks: steps with each instruction.
        action, state: by dimension.
        pauses: seconds without motion in each episode, and where: (episode, begin s, end s).
        jumps: (episode, step, what and how far).
        apart: largest and usual distance of an absolute action from the state of the same name, by name.
        repeated: share of the pictures that show the one before, by camera, of the episodes that were looked at.
    """

    findings: list[Finding]
    lengths: dict[int, int]
    tasks: Counter[str]
    action: list[Dimension]
    state: list[Dimension]
    pauses: list[tuple[int, float, float]] = field(default_factory=list)
    jumps: list[tuple[int, int, str]] = field(default_factory=list)
    apart: dict[str, tuple[float, float]] = field(default_factory=dict)
    repeated: dict[str, float] = field(default_factory=dict)
    looked_at: list[int] = field(default_factory=list)


def survey(
    data: Dataset,
    limits: Mapping[str, tuple[float, float]] | None = None,
    most_filmed: int = 20,
    done: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look through a data set.

    Args:
        limits: lowest and highest allowed value of actions, by name.
        most_filmed: episodes whose pictures are looked at, evenly spread.
        done: told the number of episodes that have been looked at, and of all.

    Raises:
        DatasetError: no episode can be read at all.
    """
    findings = [*check_whole(data), *check_films(data)]
    episodes: list[Episode] = []
    tasks: Counter[str] = Counter()
    for entry in data.entries:
        try:
            episode = data.episode(entry)
        except DatasetError as error:
            findings.append(Finding(str(error), True))
            continue
        findings += check_episode(data, episode)
        if len(episode):
            episodes.append(episode)
            tasks.update(data.tasks.get(index, f"task {index}") for index in episode.task_index.tolist())
    if not episodes:
        raise DatasetError(f"no episode of data set '{data.folder}' can be read: {findings[-1].sentence}")
    action = np.concatenate([each.action for each in episodes])
    state = np.concatenate([each.state for each in episodes])
    found = Survey(
        findings,
        {episode.entry.number: len(episode) for episode in episodes},
        tasks,
        [_dimension(name, action[:, place], (limits or {}).get(name))
         for place, name in enumerate(data.facts.action_names)],
        [_dimension(name, state[:, place]) for place, name in enumerate(data.facts.state_names)],
    )  # fmt: skip
    found.pauses = _pauses(episodes, data.facts.fps)
    found.jumps = [
        *_jumps(episodes, data.facts.state_names, "state"),
        *_jumps(episodes, data.facts.action_names, "action"),
    ]
    found.apart = _apart(data, state, action)
    found.findings += [*_outside(found.action), *_units(data, found)]
    places = np.unique(np.linspace(0, len(episodes) - 1, min(most_filmed, len(episodes))).astype(int))
    _look(data, [episodes[place] for place in places], found, done)
    return found


def _dimension(name: str, values: Floats, limits: tuple[float, float] | None = None) -> Dimension:
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return Dimension(name, np.nan, np.nan, np.nan, np.nan, [0] * BINS, (0.0, 1.0), limits)
    low, high = float(finite.min()), float(finite.max())
    edges = (low, high) if high > low else (low - 0.5, high + 0.5)
    counts, _ = np.histogram(finite, BINS, edges)
    q01, q99 = np.quantile(finite, (0.01, 0.99)).tolist()
    outside = 0.0
    if limits is not None:
        slack = 1e-5 * (limits[1] - limits[0])
        outside = float(((finite < limits[0] - slack) | (finite > limits[1] + slack)).mean())
    return Dimension(name, low, high, q01, q99, counts.tolist(), edges, limits, outside)


def _pauses(episodes: Sequence[Episode], fps: float) -> list[tuple[int, float, float]]:
    """Return where no number of the state moves for LEAST_PAUSE_S."""
    changes = [np.abs(np.diff(each.state, axis=0)) for each in episodes]
    usual = np.nanquantile(np.concatenate(changes), 0.9, axis=0) if any(len(each) for each in changes) else np.zeros(1)
    found = []
    for episode, change in zip(episodes, changes, strict=True):
        still = (change <= STILL * usual).all(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], still, [False])).astype(int)))
        for begin, end in edges.reshape(-1, 2).tolist():
            if (end - begin) / fps >= LEAST_PAUSE_S:
                found.append((episode.entry.number, begin / fps, end / fps))
    return found


def _jumps(episodes: Sequence[Episode], names: Sequence[str], what: str) -> list[tuple[int, int, str]]:
    """Return the steps at which a number changes by far more than it does else."""
    changes = [np.abs(np.diff(getattr(each, what), axis=0)) for each in episodes]
    every = np.concatenate(changes)
    if not len(every):
        return []
    usual = np.nanquantile(every, 0.99, axis=0)
    found = []
    for episode, change in zip(episodes, changes, strict=True):
        for step, place in np.argwhere((change > JUMP * usual) & (usual > 0)).tolist():
            found.append((episode.entry.number, step + 1, f"{what} {names[place]} by {change[step, place]:.3g}"))
    return found


def _apart(data: Dataset, state: Floats, action: Floats) -> dict[str, tuple[float, float]]:
    """Return how far absolute actions are from the state of the same name: the largest and the median distance."""
    found = {}
    absolute = data.facts.action_absolute or (True,) * len(data.facts.action_names)
    for place, (name, is_absolute) in enumerate(zip(data.facts.action_names, absolute, strict=True)):
        if is_absolute and name in data.facts.state_names:
            away = np.abs(action[:, place] - state[:, data.facts.state_names.index(name)])
            found[name] = (float(np.nanmax(away)), float(np.nanmedian(away)))
    return found


def _outside(action: Sequence[Dimension]) -> list[Finding]:
    return [
        Finding(
            f"action {each.name} lies outside of {each.limits[0]:g} to {each.limits[1]:g} in {100 * each.outside:.3g} "
            f"% of the steps (from {each.low:g} to {each.high:g})",
            False,
        )
        for each in action
        if each.limits is not None and each.outside > 0
    ]


def _units(data: Dataset, found: Survey) -> list[Finding]:
    """Return where state and action of one name look like radians and degrees."""
    by_name = {each.name: each for each in found.state}
    said = []
    for name in found.apart:
        one, other = by_name[name], next(each for each in found.action if each.name == name)
        spans = one.q99 - one.q01, other.q99 - other.q01
        ratio = max(spans) / min(spans) if min(spans) > 0 else 0.0
        if abs(ratio / RADIANS - 1) < NEAR:
            said.append(
                Finding(
                    f"state and action {name} differ by a factor of {ratio:.0f}: one looks like degrees, the other "
                    "like radians",
                    False,
                )
            )
    return said


def _look(data: Dataset, episodes: Sequence[Episode], found: Survey, done: Callable[[int, int], None] | None) -> None:
    """Look at the pictures of some episodes: which show the one before once more."""
    same: Counter[str] = Counter()
    total = 0
    for number, episode in enumerate(episodes):
        try:
            for camera in data.facts.cameras:
                before: npt.NDArray[Any] | None = None
                for pixels in data.pictures(episode, camera.name):
                    small = pixels[::4, ::4].astype(np.int16)
                    same[camera.name] += before is not None and float(np.abs(small - before).mean()) < SAME_LEVEL
                    before = small
        except DatasetError as error:
            found.findings.append(Finding(str(error), True))
        else:
            total += len(episode)
            found.looked_at.append(episode.entry.number)
        if done is not None:
            done(number + 1, len(episodes))
    found.repeated = {camera.name: same[camera.name] / total if total else 0.0 for camera in data.facts.cameras}
