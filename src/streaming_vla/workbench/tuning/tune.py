"""Searches parameters on bags: fewer observations against being closer to what the robot did (Optuna, TPE).

The first trial is the parameter file, as far as it lies in the searched ranges; what is found must beat the file as it
is. It is judged on bags that the search has not seen, and taken only if it is no worse there at either objective and
better at one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from streaming_vla.machines.events import Mode
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.parameters.sections import EVERY_NODE
from streaming_vla.workbench.processes import RESUMED, map_in_processes
from streaming_vla.workbench.replay.compare import records_of
from streaming_vla.workbench.replay.replay import Replayed, ReplayedEpisode
from streaming_vla.workbench.replay.run import ReplayJob, replay_all
from streaming_vla.workbench.report.results import halting
from streaming_vla.workbench.tuning.effects import without_effect
from streaming_vla.workbench.tuning.study import TuneOptions, open_study, where_of
from streaming_vla.workbench.tuning.subject import claim, subject_of

HELD_OUT = 3  # every third bag is kept from the search

Range = tuple[float, float] | tuple[int, int] | tuple[str, ...]
SEARCH: dict[tuple[str, str], Range] = {
    ("saliency_monitor", "mode"): ("always", "adaptive", "action_norm"),
    ("saliency_monitor", "saliency_of"): ("plan", "pictures"),
    ("saliency_monitor", "early_actions"): (0, 6),
    ("saliency_monitor", "saliency_threshold"): (0.1, 16.0),
    ("saliency_monitor", "max_silence_s"): (0.5, 4.0),
    (EVERY_NODE, "lead_actions"): (0, 3),
    ("inference", "cache_threshold"): (0.0005, 0.95),
    ("inference", "cache_budget"): (16, 512),
}
MODE = "saliency_monitor.mode"
READ_BY = {  # monitor modes that read an option; in the others it is left as it is
    "saliency_monitor.saliency_of": ("adaptive",),
    "saliency_monitor.saliency_threshold": ("adaptive", "action_norm"),
}
WITHOUT_EFFECT = "without_effect"  # attribute of a trial
Change = tuple[str, str, Any]  # section, option, value


@dataclass(frozen=True)
class Score:
    """What is made small: observations per second, and the distance to what the robot did (action units)."""

    observations_per_s: float
    error: float

    def better(self, other: Score) -> bool:
        """True when no worse at both and better at one (Pareto dominance)."""
        mine, others = (self.observations_per_s, self.error), (other.observations_per_s, other.error)
        return mine != others and all(ours <= theirs for ours, theirs in zip(mine, others, strict=True))


@dataclass(frozen=True)
class Point:
    """A trial that no other beats.

    Args:
        score: on the searched bags.
        values: that were changed.
        without_effect: sentences on thresholds that decided nothing there.
    """

    score: Score
    values: tuple[Change, ...] = ()
    without_effect: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Args:
        default: of the parameter file, on the bags that were kept from the search.
        tuned: of the values, on the same bags.
        values: (node, parameter, value) that were changed; empty when the given parameters are on the front.
        front: the trials that no other beats, by observations per second; of equal ones the first.
        trials: score of each trial on the searched bags, the first is that of the parameter file.
    """

    default: Score
    tuned: Score
    values: tuple[Change, ...]
    front: tuple[Point, ...]
    trials: tuple[Score, ...]


def tune(
    bags: Sequence[Path],
    job: ReplayJob,
    options: TuneOptions,
    done: Callable[[], None],
    held_out: Sequence[Path] = (),
) -> Tuned:
    """Search and return what was found; `done` is called after every trial.

    Args:
        held_out: bags to judge what was found; without them every third of `bags` is kept from the search.

    Raises:
        ValueError: no bag to search on or none to judge on, none that can be replayed, or a study of another search.
        CheckpointError: a model is not there.
        WorkerLost: a process was killed.
    """
    kept = list(held_out or bags[HELD_OUT - 1 :: HELD_OUT] or bags[-1:])
    seen = {bag.resolve() for bag in kept}
    searched = [bag for bag in bags if bag.resolve() not in seen]
    if not searched:
        raise ValueError(f"tune needs at least 2 bags, one of them to judge what was found, got {len(bags)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    study = open_study(options, create=True)
    claim(study, subject_of(searched, job), where_of(options))
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(_defaults(job)[0])
    missing = range(_finished(study), options.trials)
    if options.workers == 1:
        for _ in missing:
            work(searched, job, options)
            done()
    else:
        trials = [options] * len(missing)
        for _ in map_in_processes(partial(work, searched, job), trials, options.workers, again=RESUMED):
            done()
    return _judged(open_study(options), searched, kept, job)


def work(bags: Sequence[Path], job: ReplayJob, options: TuneOptions) -> None:
    """Do one trial of the study unless others have done enough; any number of machines may do so at the same time."""
    study = open_study(options)
    if _finished(study) < options.trials:
        study.optimize(lambda trial: _objective(trial, bags, job), n_trials=1)


def score_of(bags: Sequence[Path], job: ReplayJob) -> Score:
    """Replay bags and return the score, see `score`."""
    return score(replay_all(bags, job), job.suite().executor.action_absolute)


def score(replays: Sequence[Replayed], absolute: Sequence[bool]) -> Score:
    """Return the score of replays.

    Args:
        absolute: [A], True in the dimensions of an action that are no changes.

    Raises:
        ValueError: they hold no episode, or neither actions nor a hand-over to judge by.
    """
    records = records_of(replays)
    seconds = sum(record.duration_s for record in records)
    if not seconds:
        raise ValueError("the bags hold no episode in which every camera and the robot's state were heard")
    errors = [error for each in replays for episode in each.episodes for error in tracking_errors(episode, absolute)]
    halts_s = [value / 1000.0 for record in records for value in halting(record).halts_ms]
    if not errors and not halts_s:
        raise ValueError("the bags hold no actions of the robot, and the replays no hand-over: nothing to judge by")
    error = float(np.mean(errors)) if errors else float(np.mean(halts_s))
    return Score(sum(len(record.observations) for record in records) / seconds, error)


def tracking_errors(episode: ReplayedEpisode, absolute: Sequence[bool]) -> list[float]:
    """Return, for every action of the robot, the distance to what the replay was doing then.

    In a halt nothing changes, and dimensions that are `absolute` [A] stay as they are.
    """
    values = {(action.context, action.index): action.values for action in episode.actions}
    states = episode.record.states
    times = [at.time_s - episode.record.begin_s for at in states]
    found = []
    for time_s, recorded in episode.live.played():
        place = bisect_right(times, time_s) - 1
        if place < 0:
            continue
        state = states[place].state
        if state.mode is Mode.PLAYING:
            ours = values.get((state.context, state.index))
        else:
            still = np.asarray(absolute, dtype=bool)
            ours = np.where(still, state.cumulative_action, 0.0) if len(still) == len(recorded) else None
        if ours is not None and ours.shape == recorded.shape:
            found.append(float(np.abs(ours - recorded).mean()))
    return found


def _objective(trial: optuna.Trial, bags: Sequence[Path], job: ReplayJob) -> tuple[float, float]:
    drawn: dict[str, Any] = {}
    for (node, name), limits in _searched(job.suite()).items():
        key = f"{node}.{name}"
        if isinstance(limits[0], str):
            value: Any = trial.suggest_categorical(key, limits)
        elif isinstance(limits[0], int):
            value = trial.suggest_int(key, int(limits[0]), int(limits[1]))
        else:
            value = trial.suggest_float(key, float(limits[0]), float(limits[1]), log=True)
        drawn[key] = value
    tried = replace(job, changes=(*job.changes, *changes_of(drawn)))
    replays, suite = replay_all(bags, tried), tried.suite()
    trial.set_user_attr(WITHOUT_EFFECT, without_effect(replays, suite))
    found = score(replays, suite.executor.action_absolute)
    return found.observations_per_s, found.error


def changes_of(drawn: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return the changes that a trial's values (by SECTION.OPTION) mean."""
    changes: list[Change] = []
    for key, value in drawn.items():
        if MODE in drawn and drawn[MODE] not in READ_BY.get(key, (drawn[MODE],)):
            continue
        section, name = key.split(".", 1)
        changes.append((section, name, value))
    return tuple(changes)


def _searched(suite: SuiteOptions) -> dict[tuple[str, str], Range]:
    """Return what is searched: the cache's options only where policy gated is set."""
    gated = suite.inference.cache_policy == "gated"
    return {(node, name): limits for (node, name), limits in SEARCH.items() if gated or node != "inference"}


def _defaults(job: ReplayJob) -> tuple[dict[str, Any], bool]:
    """Return the parameter file's own values, moved into the searched ranges, and whether they are the file's still."""
    suite = job.suite()
    values = {**suite.values(), EVERY_NODE: suite.generator.values()}  # which has every shared option that is searched
    found = {}
    for (node, name), limits in _searched(suite).items():
        value = values[node][name]
        if isinstance(limits[0], str):
            found[f"{node}.{name}"] = value if value in limits else limits[0]
        else:
            found[f"{node}.{name}"] = min(max(value, limits[0]), limits[1])
    same = all(values[node][name] == value for node, name, value in changes_of(found))
    return found, same


def _finished(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _front(study: optuna.Study) -> tuple[Point, ...]:
    found: dict[Score, Point] = {}
    for trial in sorted(study.best_trials, key=lambda trial: trial.number):
        each = Score(*trial.values)
        told = tuple(trial.user_attrs.get(WITHOUT_EFFECT, ()))
        found.setdefault(each, Point(each, changes_of(trial.params), told))
    return tuple(sorted(found.values(), key=lambda point: point.score.observations_per_s))


def _judged(study: optuna.Study, searched: Sequence[Path], kept: Sequence[Path], job: ReplayJob) -> Tuned:
    trials = sorted(
        (trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna.trial.TrialState.COMPLETE),
        key=lambda trial: trial.number,
    )
    scores = [Score(*trial.values) for trial in trials]
    # the first trial may be another file than the one that is to be beaten, or another machine still be at work on it
    first = bool(trials) and trials[0].number == 0 and _defaults(job)[1]
    base = scores[0] if first else score_of(searched, job)
    told = tuple(scores) if first else (base, *scores)
    default = score_of(kept, job)
    better = [(trial, each) for trial, each in zip(trials, scores, strict=True) if each.better(base)]
    # the one that gains most at what it gains least, as a share of the default
    better.sort(key=lambda pair: max(pair[1].observations_per_s / base.observations_per_s, pair[1].error / base.error))
    front = _front(study)
    for trial, _ in better:
        values = changes_of(trial.params)
        found = score_of(kept, replace(job, changes=(*job.changes, *values)))
        if found.better(default):
            return Tuned(default, found, values, front, told)
    return Tuned(default, default, (), front, told)
