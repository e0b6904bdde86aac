"""Episodes on the virtual clock with the simulated robot, and the numbers that the study makes of them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from cost import costs
from strategies import STRATEGIES
from study import (
    MovableGoal,
    aggregate,
    as_row,
    hand_over_jumps,
    jerk,
    markdown,
    measures,
    reaction_ms,
)

from kv_cache import CacheSpec
from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.machines.events import Mode, Reason
from streaming_vla.policies.contract import PolicySpec, Prefilled
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.sim.memory_episode import CHOICE_LIMIT_STEPS, CUE_STEPS, Phase, expert_move
from streaming_vla.sim.memory_rules import CuedReach
from streaming_vla.sim.memory_tasks import MEMORY_TASKS
from streaming_vla.sim.metaworld import CAMERAS
from streaming_vla.sim.rendering import RenderError
from streaming_vla.sim.tasks import TASKS
from streaming_vla.workbench.evaluation.cache_options import FULL
from streaming_vla.workbench.report.records import ObservationAt, StateAt
from streaming_vla.workbench.virtual.episode import (
    LONGEST_STEPS,
    Disturbance,
    EpisodeOptions,
    VirtualEpisode,
    run_episode,
)

torch.set_num_threads(1)
MS = 1000.0
LEFT = np.array([-0.2, 0.0, 0.0, -1.0])


class Leftward:
    """Moves the hand slowly; flow and chunk say the same, so that strategies differ in their timing only."""

    spec = PolicySpec(
        name="leftward",
        cameras=CAMERAS,
        image_size=32,
        state_size=4,
        layout=ActionLayout(
            ("dx", "dy", "dz", "gripper"), (False, False, False, True), (-1.0,) * 4, (1.0,) * 4, (0.0, 0.0, 0.0, -1.0)
        ),
        execution_horizon=10,
        trained_horizon=16,
        tokens_per_observation=2,
        cache=CacheSpec(layers=1, kv_heads=1, head_dim=4),
    )

    @property
    def chunks(self) -> Leftward:
        """Its chunk head: itself."""
        return self

    def prefill(self, observation, view):  # type: ignore[no-untyped-def]
        """Remember the hand."""
        yield
        values = torch.zeros(1, 1, 2, 4)
        values[0, 0, :, :3] = torch.from_numpy(observation.state[:3])
        return Prefilled(torch.ones(1, 1, 2, 4), values, values[0, 0])

    def flow_step(self, query):  # type: ignore[no-untyped-def]
        """Move by 0.2 cm."""
        return LEFT

    def denoise(self, view, context, steps, guide: Guide | None, random):  # type: ignore[no-untyped-def]
        """Go straight to the same actions."""
        noisy = random.standard_normal((16, 4))
        for step in range(steps):
            if step:
                yield None
            time = step / steps
            velocity = (LEFT - noisy) / (1.0 - time)
            if guide is not None:
                velocity = velocity + guide.correction(noisy + (1.0 - time) * velocity, time)
            noisy = noisy + velocity / steps
        return noisy

    def look_ahead(self, seen, pending):  # type: ignore[no-untyped-def]
        """As far as it moved."""
        return float(np.linalg.norm(pending[:3]))


@functools.cache
def robot() -> MovableGoal:
    """Return the one robot of this process."""
    return MovableGoal(image_size=64)


@pytest.fixture(scope="module", autouse=True)
def closed_robot() -> Iterator[None]:
    """Free the robot's renderer at the end: the interpreter's own end is too late for OpenGL."""
    yield
    if robot.cache_info().currsize:
        robot().close()
        robot.cache_clear()


class Switching(Leftward):
    """Plans to close its gripper in the last third of every context, or never."""

    spec = replace(Leftward.spec, trained_delay=10)  # a late context is executed from its first action on

    def __init__(self, closes: bool) -> None:
        self._closes = closes

    def plan(self, view, context):  # type: ignore[no-untyped-def]
        """Return what it would do; nothing of it depends on what is executed."""
        plan = np.tile(LEFT, (16, 1))
        plan[12:, 3] = 1.0 if self._closes else -1.0
        return plan


def run(
    strategy: str,
    profile: str = "paper",
    steps: int = 60,
    disturbance: Disturbance | None = None,
    policy: Leftward | None = None,
) -> VirtualEpisode:
    """Run a short episode, or skip where nothing can be rendered."""
    options = EpisodeOptions(strategy, "reach", 10_001, "go left", steps=steps)
    try:
        return run_episode(
            STRATEGIES[strategy], find_profile(profile), policy or Leftward(), robot(), options, disturbance
        )
    except RenderError as error:
        pytest.skip(str(error))


def test_the_world_goes_on_while_the_robot_halts() -> None:
    halted, streamed = run("afm"), run("ours")
    assert len(halted.hand) == len(streamed.hand) == 60, "one position per control period, halts included"
    moved_m = [episode.hand[0, 0] - episode.hand[-1, 0] for episode in (halted, streamed)]
    executed = [measures(episode).executed for episode in (halted, streamed)]
    assert executed[0] < executed[1] and moved_m[0] < moved_m[1]
    assert moved_m[0] / moved_m[1] == pytest.approx(executed[0] / executed[1], abs=0.08)
    assert measures(streamed).halts_ms == pytest.approx((0.0,) * len(measures(streamed).halts_ms), abs=1e-6)


def test_the_same_seed_gives_the_same_episode() -> None:
    first, second = (run("ours", "remote_wifi", 40) for _ in range(2))
    assert np.array_equal(first.hand, second.hand)
    assert [at.time_s for at in first.record.states] == [at.time_s for at in second.record.states]
    assert len(first.commands) == len(second.commands)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_runs_with_a_real_robot(strategy: str) -> None:
    episode = run(strategy, steps=45)
    found = measures(episode)
    assert found.problem == "" and found.executed >= 4 and found.observations >= 2
    assert all(abs(command.values[0] + 0.2) < 0.05 for _, command in episode.commands if command.values[0] != 0.0)
    row = aggregate(strategy, "paper", "window", 27.0, [as_row(found)], [], {})
    assert row["t_action_ms"] >= 27.0 and row["observations_per_s"] > 0


def test_adaptive_observes_early_where_a_switch_is_planned_and_else_at_the_last_chance() -> None:
    actions = {}
    for name, closes in (("calm", False), ("switching", True)):
        found = measures(run("ours_adaptive", steps=120, policy=Switching(closes)))
        actions[name] = found.executed / found.observations
    always = measures(run("ours", steps=120))
    soonest = always.executed / always.observations
    assert soonest <= actions["switching"] <= soonest + 2.0, (
        "an answer takes as long as a flow step, behind the one that the next action needs"
    )
    assert actions["calm"] > 1.4 * soonest, "the overrun is played"


def test_a_moved_goal_is_seen_by_the_next_observation() -> None:
    before = run("ours", steps=20)
    moved = run("ours", steps=60, disturbance=Disturbance(15, robot().mirror_goal))
    assert math.isnan(measures(before).reaction_ms)
    reaction = measures(moved).reaction_ms
    first = next(at for at in moved.record.observations if at.time_s >= moved.disturbed_s)
    assert MS * (first.time_s - moved.disturbed_s) < reaction < 20 * 27.0
    slow = measures(run("synchronous_10", steps=60, disturbance=Disturbance(15, robot().mirror_goal)))
    assert slow.reaction_ms > reaction


def test_reaction_counts_from_the_disturbance_to_the_first_action_that_knows_of_it() -> None:
    episode = run("ours", steps=20)
    record = replace(
        episode.record, observations=[ObservationAt(t, n, Reason.EARLY, 0, 0.0) for n, t in enumerate((0.0, 1.0))]
    )
    state = episode.record.states[-1].state
    record.states = [
        StateAt(1.2, replace(state, mode=Mode.PLAYING, context=0)),
        StateAt(1.5, replace(state, context=1)),
    ]
    assert reaction_ms(record, 0.9) == pytest.approx(600.0)
    assert math.isnan(reaction_ms(record, 1.1))


def test_the_jerk_of_a_cubic_is_its_third_derivative() -> None:
    times = np.arange(20) * 0.05
    hand = np.stack([2.0 * times**3, times**2, np.ones(20)], axis=1)
    assert jerk(hand, 0.05) == pytest.approx(12.0)
    assert math.isnan(jerk(hand[:3], 0.05))


def test_a_policy_that_says_the_same_again_does_not_jump() -> None:
    episode = run("ours", steps=60)
    jumps = hand_over_jumps(episode)
    assert len(jumps) == len(measures(episode).halts_ms) > 2
    assert jumps == pytest.approx([0.0] * len(jumps), abs=1e-9)


def test_a_line_of_the_results_has_what_readers_of_the_file_expect() -> None:
    rows = [as_row(measures(run(name, steps=45))) for name in ("afm", "ours")]
    cost = costs(Leftward())
    assert set(cost) == {"prefill", "flow_step", "look_ahead", "denoise", "exact_denoise"}
    line = aggregate("both", "paper", "window", 27.0, rows, [], cost)
    assert {
        "strategy", "profile", "tasks", "cache", "episodes", "success", "success_low", "success_high", "t_action_ms",
        "t_halt_ms", "t_halt_p95_ms", "observations_per_s", "reaction_ms", "jerk",
    } <= set(line)  # fmt: skip
    assert line["episodes"] == 2 and line["tasks"] == "reach" and line["reaction_ms"] is None
    assert line["t_halt_ms"] == pytest.approx(np.mean([*rows[0]["halts_ms"], *rows[1]["halts_ms"]]))
    json.dumps(line, allow_nan=False)
    table = markdown([line]).splitlines()
    assert len(table) == 3 and len({row.count("|") for row in table}) == 1
    with pytest.raises(ValueError, match="has no episode"):
        aggregate("none", "paper", "window", 27.0, [], [], {})


def test_both_sets_of_tasks_stand_in_the_table_by_their_names() -> None:
    row = as_row(measures(run("ours", steps=45)))
    names = [
        aggregate("ours", "paper", "gated", 27.0, [row | {"task": task} for task in tasks], [], {})
        for tasks in (TASKS, MEMORY_TASKS, ["push", "count"])
    ]
    assert [line["tasks"] for line in names] == ["MT10", "memory", "count, push"]
    cells = [[cell.strip() for cell in line.split("|")] for line in markdown(names).splitlines()]
    tasks, success = cells[0].index("tasks"), cells[0].index("success")
    assert [line[tasks] for line in cells[2:]] == ["MT10", "memory", "count, push"]
    assert [line[success] for line in cells[2:]] == ["0.0% (0 to 28)", "0.0% (0 to 56)", "0.0% (0 to 66)"]


class Choosing(Leftward):
    """Acts as the expert of a memory task that remembers `error` too much: 0 chooses the right goal."""

    def __init__(self, error: int) -> None:
        self._error = error

    def flow_step(self, query):  # type: ignore[no-untyped-def]
        """Follow the marker, then go to the goal."""
        memory = robot().memory
        target = memory.target()
        if memory.phase is Phase.CHOICE:
            target = memory.goals[(memory.answer + self._error) % memory.choices].position
        return np.append(expert_move(robot().state()[:3], target), -1.0)


class Still(Leftward):
    """Never moves."""

    def flow_step(self, query):  # type: ignore[no-untyped-def]
        """Stay."""
        return np.array([0.0, 0.0, 0.0, -1.0])


def recall(policy: Leftward, strategy: str, seed: int) -> VirtualEpisode:
    """Run a memory task with the whole history."""
    options = EpisodeOptions(strategy, "cued-reach", seed, "remember the colour", FULL)
    try:
        return run_episode(STRATEGIES[strategy], find_profile("paper"), policy, robot(), options)
    except RenderError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("error", [0, 1])
def test_a_memory_task_ends_with_the_choice(error: int) -> None:
    seed = next(seed for seed in range(10_000, 10_100) if CuedReach(seed).wait_steps < 80)
    episode, memory = recall(Choosing(error), "ours", seed), robot().memory
    assert memory is not None
    assert episode.record.success is (error == 0)
    assert episode.record.problem == ("" if error == 0 else "another goal was chosen, or none in time")
    assert 0 < len(episode.hand) - memory.cue_steps - memory.wait_steps < CHOICE_LIMIT_STEPS


def test_the_longest_wait_and_its_halts_fit_into_an_episode() -> None:
    seed = next(seed for seed in range(10_000, 10_100) if CuedReach(seed).wait_steps > 380)
    episode = recall(Still(), "synchronous_10", seed)
    longest = CUE_STEPS + CuedReach(seed).wait_steps + CHOICE_LIMIT_STEPS
    assert longest > LONGEST_STEPS
    assert len(episode.hand) == longest, "the world's steps go on while the arm halts"
    assert not episode.record.success and episode.record.problem == "another goal was chosen, or none in time"
    assert measures(episode).starved_s > 0.2 * measures(episode).seconds
