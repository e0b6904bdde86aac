"""What of each strategy is tuned, and how: baselines over a grid, strategies with a dial to a wanted rate.

A grid is tried on scenes that no evaluation uses. The parameters of most successes win, those that halt less decide a
tie. What observes less often than always is compared at equal observations: every dial is turned until the
observations per action are the wanted share below those of `ours`, or until as many contexts are observed early as
published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from strategies import STRATEGIES, Setup, changed
from study import Row, row_of

from streaming_vla.saliency.calibration import Calibration, calibrate, extremes
from streaming_vla.workbench.tuning.calibrating import (
    Outcome,
    Scenes,
    by_saving,
    judged_episodes,
    outcome,
    recording,
    tuned_to,
)
from streaming_vla.workbench.virtual.runs import run_all

Changes = Mapping[str, Mapping[str, Any]]
Dial = Callable[[float], Changes]
"""From a rate to parameters."""

EULER = (5, 10)  # steps of a chunk's denoising
QUEUE = {"threshold": (0.3, 0.5, 0.7), "steps": EULER}
RTC = {"least": (3, 5, 8), "beta": (5.0, 10.0)}
HAND_OVER = {"execute": (8, 10, 12), "steps": EULER}
# by strategy: part and values of each parameter (strategies.changed)
GRIDS: dict[str, dict[str, dict[str, tuple[Any, ...]]]] = {
    "synchronous_5": {"chunks": {"steps": EULER}},
    "synchronous_10": {"chunks": {"steps": EULER}},
    "temporal_ensembling": {"chunks": {"decay": (0.01, 0.1, 0.5), "steps": EULER}},
    "lerobot_weighted_average": {"chunks": QUEUE},
    "lerobot_latest_only": {"chunks": QUEUE},
    "lerobot_average": {"chunks": QUEUE},
    "lerobot_conservative": {"chunks": QUEUE},
    "lerobot_similarity": {"chunks": QUEUE, "setup": {"similarity": (0.005, 0.02)}},
    "rtc": {"chunks": RTC},
    "rtc_exact": {"chunks": RTC},
    "vlash": {"chunks": HAND_OVER},
    "chunk_naive_early": {"chunks": {"early": (1, 2, 3), "steps": EULER}},
    "chunk_from_m": {"chunks": HAND_OVER},
    "chunk_from_0": {"chunks": HAND_OVER},
    "afm_naive_early": {"monitor": {"early_actions": (1, 2, 3)}},
}
PUBLISHED_RATE = 0.76  # share of the contexts that StreamingVLA observes early
RATED = ("afm_random_early", "afm_aeo", "afm_aeo_stale")  # brought to that rate
SAVING = (
    "ours_random",
    "ours_action_norm",
    "ours_predicted",
    "ours_adaptive",
    "ours_doubt",
)  # brought to the same saving against `ours`


def grid(name: str) -> list[Changes]:
    """Return every combination of the parameters of a strategy; one without changes when it has none."""
    axes = [(part, key, values) for part, keys in GRIDS.get(name, {}).items() for key, values in keys.items()]
    found: list[Changes] = []
    for chosen in product(*(values for _, _, values in axes)):
        changes: dict[str, dict[str, Any]] = {}
        for (part, key, _), value in zip(axes, chosen, strict=True):
            changes.setdefault(part, {})[key] = value
        found.append(changes)
    return found


@dataclass(frozen=True)
class Tried:
    """One combination and what it did."""

    changes: Changes
    success: float
    t_halt_ms: float


def try_grid(name: str, scenes: Scenes, processes: int, done: Callable[[], None]) -> list[Tried]:
    """Run every combination of a strategy on all scenes; the best is the first."""
    combinations = grid(name)
    jobs = [
        ((number, place), replace(scene, name=name, setup=changed(STRATEGIES[name], changes)))
        for number, changes in enumerate(combinations)
        for place, scene in enumerate(scenes)
    ]
    rows: list[list[Row]] = [[] for _ in combinations]
    for (number, _), row in run_all(jobs, row_of, processes):
        rows[number].append(row)
        done()
    found = [_tried(changes, each) for changes, each in zip(combinations, rows, strict=True)]
    return sorted(found, key=lambda tried: (-tried.success, tried.t_halt_ms))


def _tried(changes: Changes, rows: Sequence[Row]) -> Tried:
    halts = [value for row in rows for value in row["halts_ms"]]
    success = sum(bool(row["success"]) for row in rows) / len(rows)
    return Tried(changes, success, sum(halts) / len(halts) if halts else 0.0)


def turn_dials(
    names: Sequence[str], scenes: Scenes, fewer: float, processes: int
) -> Iterator[tuple[str, Changes, str]]:
    """Yield strategy, changes and a sentence of every strategy of `names` that has a dial.

    Args:
        fewer: share of the observations per action that SAVING strategies save against `ours`.

    Raises:
        ValueError: no saliency could be recorded, or the saving is out of reach.
    """
    always = None
    for name in (each for each in (*RATED, *SAVING) if each in names):
        setup = STRATEGIES[name]
        turned = dial(setup, scenes, processes)
        if name in RATED:
            yield (
                name,
                turned(PUBLISHED_RATE),
                f"{100 * PUBLISHED_RATE:.0f} % of the contexts observed early, as published",
            )
            continue
        always = always or outcome(STRATEGIES["ours"], scenes, _dialled(1.0), processes)
        best = by_saving(partial(_outcome, setup, turned, scenes, processes), always, fewer)[-1]
        saved = 1.0 - best.observations / always.observations
        yield name, turned(best.calibration.rate), f"{100 * saved:.0f} % fewer observations per action"


def dial(setup: Setup, scenes: Scenes, processes: int) -> Dial:
    """Return what turns a strategy to a rate: the share of the contexts that it observes early.

    Raises:
        ValueError: no saliency could be recorded.
    """
    return partial(_changes, setup, _recorded(setup, scenes, processes))


def _outcome(setup: Setup, turned: Dial, scenes: Scenes, processes: int, rate: float) -> Outcome:
    return outcome(changed(setup, turned(rate)), scenes, _dialled(rate), processes)


def _dialled(rate: float) -> Calibration:
    """Return a rate that was asked for: here the rate is looked at, not the threshold."""
    return Calibration(0.0, rate, 0)


def _recorded(setup: Setup, scenes: Scenes, processes: int) -> list[float]:
    """Return what decides each context; nothing for mode random."""
    if setup.monitor.mode == "random":
        return []
    when = setup.monitor.observe_when
    return extremes(judged_episodes(recording(setup, when), scenes, processes), when)


def _changes(setup: Setup, values: list[float], rate: float) -> Changes:
    """Return what turns a strategy's dial to a rate."""
    if not values:
        return {"monitor": {"random_rate": rate}}
    options = tuned_to(setup, calibrate(values, rate, setup.monitor.observe_when)).monitor
    return {"monitor": {"saliency_threshold": options.saliency_threshold, "saliency_release": 1.0}}
