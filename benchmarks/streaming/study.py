"""The study of strategies: what one virtual episode is measured by, and what the episodes of a cell come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from cost import flops

from streaming_vla.machines.events import CommandKind, Mode
from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.sim.tasks import TASKS
from streaming_vla.workbench.report.records import EpisodeRecord
from streaming_vla.workbench.report.results import halting
from streaming_vla.workbench.report.statistics import wilson_interval
from streaming_vla.workbench.virtual.episode import Disturbance, VirtualEpisode
from streaming_vla.workbench.virtual.runs import VirtualRun, robot_of_process

MS = 1000.0
MOVED_AT_STEP = 15
Row = dict[str, Any]


class MovableGoal(MetaWorldRobot):
    """The simulated arm in a world whose goal somebody moves while it works (task reach)."""

    def mirror_goal(self) -> None:
        """Move the goal, and the marker that shows it, to the other side of the arm."""
        environment = self._current().environment
        goal = np.array(environment._target_pos) * (-1.0, 1.0, 1.0)
        environment._target_pos = goal
        environment.model.site("goal").pos = goal


@dataclass(frozen=True)
class MovedGoalRun(VirtualRun):
    """An episode of task reach whose goal is moved after MOVED_AT_STEP control periods."""

    def scene(self, image_size: int) -> tuple[MetaWorldRobot, Disturbance | None]:
        """See VirtualRun."""
        robot = robot_of_process(MovableGoal, image_size)
        return robot, Disturbance(MOVED_AT_STEP, robot.mirror_goal)


@dataclass(frozen=True)
class EpisodeMeasures:
    """One episode; times in seconds or, where the name says so, milliseconds.

    Args:
        halts_ms: time without an action, of each hand-over.
        jerk: root mean square of the hand's jerk, m/s^3 on the control clock.
        jumps: largest change over the hand's dimensions at each hand-over, action units.
        reaction_ms: the world was disturbed to the first action of a picture that shows it; NaN without.
        work: how often the model did each kind of work.
    """

    task: str
    seed: int
    success: bool
    problem: str
    seconds: float
    executed: int
    starved_s: float
    observations: int
    halts_ms: tuple[float, ...]
    jerk: float
    jumps: tuple[float, ...]
    reaction_ms: float
    work: dict[str, int]


def measures(episode: VirtualEpisode) -> EpisodeMeasures:
    """Return what an episode is measured by."""
    record = episode.record
    measured = halting(record)
    return EpisodeMeasures(
        task=record.task,
        seed=record.seed,
        success=record.success,
        problem=record.problem,
        seconds=record.duration_s,
        executed=measured.executed,
        starved_s=record.states[-1].state.starved_s,
        observations=len(record.observations),
        halts_ms=measured.halts_ms,
        jerk=jerk(episode.hand, record.control_period_s),
        jumps=tuple(hand_over_jumps(episode)),
        reaction_ms=reaction_ms(record, episode.disturbed_s),
        work=episode.work,
    )


def jerk(hand: npt.NDArray[np.float64], period_s: float) -> float:
    """Return the root mean square of the third derivative of positions [N, 3], m/s^3; NaN for fewer than four."""
    if len(hand) < 4:
        return math.nan
    third = np.diff(hand, n=3, axis=0) / period_s**3
    return float(np.sqrt(np.mean(np.sum(third**2, axis=1))))


def hand_over_jumps(episode: VirtualEpisode) -> list[float]:
    """Return the change of the hand's action, first three dimensions, wherever the context changes."""
    played = [at.state for at in episode.record.states if at.state.mode is Mode.PLAYING]
    contexts = [after.context for before, after in pairwise(played) if after.executed > before.executed]
    values = [command.values[:3] for _, command in episode.commands if command.kind is CommandKind.PLAY]
    before = played[0].context if played else -1
    found: list[float] = []
    for number, context in enumerate(contexts, start=1):
        if context != before and number < len(values):
            found.append(float(np.max(np.abs(values[number] - values[number - 1]))))
        before = context
    return found


def reaction_ms(record: EpisodeRecord, disturbed_s: float) -> float:
    """Return the time from a disturbance to the first action that comes from a picture taken after it, or NaN."""
    seen = [at.sequence for at in record.observations if at.time_s >= disturbed_s]
    if math.isnan(disturbed_s) or not seen:
        return math.nan
    for at in record.states:
        if at.state.mode is Mode.PLAYING and at.state.context >= seen[0]:
            return MS * (at.time_s - disturbed_s)
    return math.nan


def as_row(episode: EpisodeMeasures) -> Row:
    """Return an episode as plain values for JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(episode).items()}


def row_of(episode: VirtualEpisode) -> Row:
    """Return what an episode is measured by, as plain values."""
    return as_row(measures(episode))


def aggregate(
    strategy: str,
    profile: str,
    cache: str,
    control_period_ms: float,
    episodes: Sequence[Mapping[str, Any]],
    moved: Sequence[Mapping[str, Any]],
    cost: Mapping[str, int],
) -> Row:
    """Return the line of results.json of one strategy with one profile on one set of tasks.

    Args:
        cache: name of the policy by which the history was kept.
        episodes: rows of all tasks.
        moved: rows of the episodes in which the goal was moved.
        cost: FLOPs of each kind of work (cost.costs).

    Raises:
        ValueError: there is no episode.
    """
    if not episodes:
        raise ValueError(f"strategy {strategy} with profile {profile} has no episode")
    successes = sum(bool(row["success"]) for row in episodes)
    low, high = wilson_interval(successes, len(episodes))
    executed = sum(row["executed"] for row in episodes)
    starved_s = sum(row["starved_s"] for row in episodes)
    seconds = sum(row["seconds"] for row in episodes)
    observations = sum(row["observations"] for row in episodes)
    halts = [value for row in episodes for value in row["halts_ms"]]
    jumps = [value for row in episodes for value in row["jumps"]]
    solved = [row for row in episodes if row["success"]]
    return {
        "strategy": strategy,
        "profile": profile,
        "tasks": name_tasks({row["task"] for row in episodes}),
        "cache": cache,
        "episodes": len(episodes),
        "success": successes / len(episodes),
        "success_low": low,
        "success_high": high,
        "episode_s": statistics.median(row["seconds"] for row in solved) if solved else None,
        "actions_per_solved": statistics.median(row["executed"] for row in solved) if solved else None,
        "t_action_ms": control_period_ms + MS * starved_s / executed if executed else None,
        "t_halt_ms": _mean(halts),
        "t_halt_p95_ms": float(np.percentile(halts, 95)) if halts else None,
        "t_halt_longest_ms": max(halts, default=None),
        "starved_fraction": starved_s / seconds,
        "observations_per_s": observations / seconds,
        "actions_per_observation": executed / observations if observations else None,
        "mflops_per_action": sum(flops(row["work"], cost) for row in episodes) / executed / 1e6 if executed else None,
        "reaction_ms": _mean([row["reaction_ms"] for row in moved]),
        "jerk": _mean([row["jerk"] for row in episodes]),
        "jump": _mean(jumps),
        "jump_p95": float(np.percentile(jumps, 95)) if jumps else None,
    }


def name_tasks(tasks: Iterable[str]) -> str:
    """Return what a set of tasks is called: MT10, memory, or the names of its tasks."""
    chosen = frozenset(tasks)
    sets = {frozenset(TASKS): "MT10", frozenset(MEMORY_TASKS): "memory"}
    return sets.get(chosen, ", ".join(sorted(chosen)))


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is a number, None when nothing is."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.mean(known)) if known else None


COLUMNS = (
    ("strategy", "strategy", "{}"),
    ("profile", "profile", "{}"),
    ("tasks", "tasks", "{}"),
    ("episodes", "n", "{}"),
    ("success", "success", "{:.1%}"),
    ("episode_s", "median s", "{:.2f}"),
    ("actions_per_solved", "median actions", "{:.0f}"),
    ("t_action_ms", "T_action ms", "{:.1f}"),
    ("t_halt_ms", "T_halt ms", "{:.1f}"),
    ("t_halt_p95_ms", "p95", "{:.1f}"),
    ("t_halt_longest_ms", "longest", "{:.1f}"),
    ("starved_fraction", "starved", "{:.2%}"),
    ("observations_per_s", "observations/s", "{:.2f}"),
    ("actions_per_observation", "actions/observation", "{:.1f}"),
    ("mflops_per_action", "MFLOPs/action", "{:.1f}"),
    ("reaction_ms", "reaction ms", "{:.0f}"),
    ("jerk", "jerk m/s3", "{:.1f}"),
    ("jump", "jump", "{:.2f}"),
)


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as one Markdown table; success comes with its 95 % interval (Wilson)."""
    lines = ["| " + " | ".join(title for _, title, _ in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    success = [key for key, _, _ in COLUMNS].index("success")
    for row in rows:
        cells = ["-" if row[key] is None else text.format(row[key]) for key, _, text in COLUMNS]
        cells[success] += f" ({100 * row['success_low']:.0f} to {100 * row['success_high']:.0f})"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
