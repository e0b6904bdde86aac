"""Finds the monitor's threshold on the virtual clock or on bags: to a wanted rate, a wanted saving, or at no loss.

Saliencies are recorded first with a threshold that never passes. A rate is then a quantile of them. What it does to
observations and success is not: it is measured by running the episodes again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from streaming_vla.bags.errors import BagError
from streaming_vla.saliency.calibration import MONITOR, Calibration, calibrate, parameters
from streaming_vla.workbench.replay.run import ReplayJob, replay_all
from streaming_vla.workbench.report.statistics import wilson_interval
from streaming_vla.workbench.virtual.episode import VirtualEpisode
from streaming_vla.workbench.virtual.runs import VirtualRun, run_all

NEVER = {"salient": 1e6, "calm": 0.0}  # thresholds that no saliency passes
LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # rates that a success bound is looked for on
HALVINGS = 5  # of the rate, until the saving is near enough
NEAR = 0.02  # share of observations

Judged = list[tuple[int, float]]
Tunable = TypeVar("Tunable", bound=Any)  # a dataclass that is a virtual.setup.Setup and has options of a monitor
Scenes = Sequence[VirtualRun]
"""Episodes to run; their setups are replaced."""


@dataclass(frozen=True)
class Outcome:
    """What a calibration does, measured on the virtual clock.

    Args:
        calibration: threshold and share of the contexts that are observed early.
        success: share of the episodes.
        observations: per executed action.
    """

    calibration: Calibration
    episodes: int
    success: float
    observations: float

    def __str__(self) -> str:
        low, high = wilson_interval(round(self.success * self.episodes), self.episodes)
        return (
            f"rate {self.calibration.rate:.2f}: {100 * self.success:.1f} % of {self.episodes} episodes "
            f"(95 %: {100 * low:.1f} to {100 * high:.1f})"
        )


def recording(setup: Tunable, when: str) -> Tunable:
    """Return `setup`, whose mode asks for saliencies, with a threshold that never passes."""
    monitor = setup.monitor.changed(saliency_threshold=NEVER[when], observe_when=when, saliency_release=1.0)
    return replace(setup, monitor=monitor)


def tuned_to(setup: Tunable, calibration: Calibration) -> Tunable:
    """Return `setup` with a calibrated threshold."""
    monitor = setup.monitor.changed(saliency_threshold=calibration.threshold, saliency_release=1.0)
    return replace(setup, monitor=monitor)


def judged_episodes(setup: Tunable, scenes: Scenes, processes: int) -> list[Judged]:
    """Run the scenes and return their saliencies.

    Raises:
        ValueError: none was judged: the policy cannot answer, or the episodes are too short.
    """
    jobs = [(number, replace(scene, setup=setup)) for number, scene in enumerate(scenes)]
    found = dict(run_all(jobs, _judged, processes))
    if not any(found.values()):
        raise ValueError(
            "calibration: no saliency was recorded; that of pictures needs a saliency model of this policy "
            "(streaming-vla train saliency)"
        )
    return [found[number] for number in range(len(jobs))]


def _judged(episode: VirtualEpisode) -> Judged:
    return episode.judged


def judged_bags(bags: Sequence[Path], job: ReplayJob, mode: str, of: str, when: str, workers: int) -> list[Judged]:
    """Replay bags and return the saliencies of their episodes.

    Raises:
        BagError: no bag can be used.
        ValueError: none was judged.
    """
    changes = ((MONITOR, name, value) for name, value in parameters(mode, of, when, NEVER[when]).items())
    asking = replace(job, changes=(*job.changes, *changes))
    replays = replay_all(bags, asking, workers)
    judged = [episode.judged for each in replays for episode in each.episodes]
    if not any(judged):
        raise BagError(
            "calibration: the bags hold no context that lasted long enough to be judged, or the policy cannot answer: "
            "that of pictures needs a saliency model (streaming-vla train saliency)"
        )
    return judged


def outcome(setup: Tunable, scenes: Scenes, calibration: Calibration, processes: int) -> Outcome:
    """Run the scenes with a setup and say what came of it."""
    jobs = [(number, replace(scene, setup=setup)) for number, scene in enumerate(scenes)]
    counted = [each for _, each in run_all(jobs, _counted, processes)]
    executed = sum(each.executed for each in counted)
    return Outcome(
        calibration,
        len(counted),
        sum(each.success for each in counted) / len(counted),
        sum(each.observations for each in counted) / max(1, executed),
    )


class _Counted(NamedTuple):
    """What counts of an episode."""

    success: bool
    executed: int
    observations: int


def _counted(episode: VirtualEpisode) -> _Counted:
    record = episode.record
    return _Counted(record.success, record.states[-1].state.executed, len(record.observations))


Try = Callable[[float], Outcome]
"""Runs the scenes with a rate."""


def by_saving(tried: Try, always: Outcome, fewer: float) -> list[Outcome]:
    """Halve the rate until the observations per action are `fewer` (a share) below those of `always`; the last is best.

    Raises:
        ValueError: even a rate of 0 does not save so much.
    """
    wanted = (1.0 - fewer) * always.observations
    low, high = 0.0, 1.0
    found = [tried(0.0)]
    if found[0].observations > (1.0 + NEAR) * wanted:
        saved = 1.0 - found[0].observations / always.observations
        raise ValueError(
            f"calibration: {100 * fewer:.0f} % fewer observations are out of reach, the contexts are observed again at "
            f"the end of their trained horizon; at most {100 * saved:.0f} % can be saved"
        )
    for _ in range(HALVINGS):
        if abs(found[-1].observations / wanted - 1.0) <= NEAR:
            break
        rate = 0.5 * (low + high)
        found.append(tried(rate))
        low, high = (rate, high) if found[-1].observations < wanted else (low, rate)
    found.sort(key=lambda each: -abs(each.observations / wanted - 1.0))
    return found


def by_success(tried: Try, always: Outcome, within: float) -> list[Outcome]:
    """Raise the rate from 0 until success is at most `within` below that of `always`; the last is what was found.

    Raises:
        ValueError: it is further below at every rate.
    """
    found: list[Outcome] = []
    for rate in LADDER:
        found.append(tried(rate))
        if found[-1].success >= always.success - within:
            return found
    best = max(each.success for each in found)
    raise ValueError(
        f"calibration: no threshold stays within {100 * within:.1f} points of mode always "
        f"({100 * always.success:.1f} % of {always.episodes} episodes), the best one solves {100 * best:.1f} %: "
        "keep mode always, or allow more with --within"
    )


def trying(setup: Tunable, scenes: Scenes, values: Sequence[float], when: str, processes: int) -> Try:
    """Return what runs `scenes` with the threshold of a rate; `values` decide each context (calibration.extremes)."""

    def tried(rate: float) -> Outcome:
        calibration = calibrate(values, rate, when)
        return outcome(tuned_to(setup, calibration), scenes, calibration, processes)

    return tried
