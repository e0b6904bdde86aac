"""A policy alone: when it looks, what it executes, which words it is given, and how successes are counted."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from kv_cache.cache import CacheView
from kv_cache.policies import Random
from kv_cache.spec import CacheSpec
from streaming_vla.cli import app
from streaming_vla.engine.options import CacheOptions
from streaming_vla.policies.compact.chunk_head import ChunkBegin
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, PolicySpec, Prefilled
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.layout import ActionLayout, Vector
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.sim.tasks import TASKS, get_task, select_tasks
from streaming_vla.workbench.evaluation.closed_loop import EpisodeResult, Trial, evaluate, wording
from streaming_vla.workbench.evaluation.closed_loop_runner import ClosedLoopRunner, RunnerOptions
from streaming_vla.workbench.evaluation.command import parse_seeds
from streaming_vla.workbench.evaluation.memory_outcome import MemoryOutcome
from streaming_vla.workbench.evaluation.policy_report import tabulate, to_markdown
from streaming_vla.workbench.processes import WorkerLost
from streaming_vla.workbench.robots import ROBOTS

SAME_SCENE = {
    "drawer-open": ["drawer-close"],
    "drawer-close": ["drawer-open"],
    "window-open": ["window-close"],
    "window-close": ["window-open"],
}
LAYOUT = ActionLayout(("dx", "grip"), (False, True), (-1.0, -1.0), (1.0, 1.0), (0.0, -1.0))


class CountingPolicy:
    """Numbers its observations; an action says which observation and which step it is of."""

    spec = PolicySpec("counting", ("eye",), 8, 2, LAYOUT, 10, 16, 1, CacheSpec(1, 1, 2), trained_delay=10)

    def __init__(self) -> None:
        self.chunks = self
        self.seen: list[PolicyObservation] = []
        self.positions: list[float] = []
        self.ages: list[int] = []

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        self.seen.append(observation)
        yield
        token = torch.full((1, 1, 1, 2), float(len(self.seen)))
        return Prefilled(token, token, context=len(self.seen))

    def flow_step(self, query: FlowQuery) -> Vector:
        self.positions.append(float(query.position[0]))
        assert query.state is not None and query.state_age_s == 0.0
        return self._action(query.view, query.context, query.index)

    def denoise(
        self, view: CacheView, context: ChunkBegin, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Generator[None, None, Vector]:
        assert guide is None and context.state.shape == (2,)
        self.ages.append(context.age)
        yield
        return np.array([self._action(view, len(self.seen), row) for row in range(16)])

    def _action(self, view: CacheView, context: int, index: int) -> Vector:
        assert float(view.values[0, 0, -1, 0]) == context, "what its own prefill left"
        return np.array([context / 100, index / 100])


class Eye:
    """A robot that is looked at."""

    def render(self, camera: str) -> np.ndarray:
        return np.full((16, 16, 3), 200, dtype=np.uint8)

    def state(self) -> np.ndarray:
        return np.zeros(2, dtype=np.float32)


def fly(steps: int, **options: Any) -> tuple[CountingPolicy, list[tuple[int, int, int]]]:
    """Return for every step (observations so far, observation acted on, index of its action)."""
    policy = CountingPolicy()
    runner = ClosedLoopRunner(cast(Any, policy), RunnerOptions(**options))
    runner.begin("go")
    flown = []
    for _ in range(steps):
        action = runner(cast(MetaWorldRobot, Eye()))
        flown.append((len(policy.seen), round(100 * float(action[0])), round(100 * float(action[1]))))
    return policy, flown


@pytest.mark.parametrize("head", ["flow", "chunk"])
def test_a_context_is_executed_for_its_horizon(head: str) -> None:
    _, flown = fly(25, head=head)
    assert flown == [(1 + step // 10, 1 + step // 10, step % 10) for step in range(25)]


def test_an_aged_observation_is_taken_before_its_hand_over() -> None:
    _, flown = fly(25, age=4)
    assert flown[5] == (1, 1, 5) and flown[6] == (2, 1, 6)
    assert flown[10] == (2, 2, 0)


@pytest.mark.parametrize(("start", "first"), [("rezero", 0.0), ("episode", 0.1), ("pending", 0.04)])
def test_the_sum_of_a_new_flow_counts_from_where_it_is_told(start: str, first: float) -> None:
    policy, _ = fly(11, age=4, start=start)  # ten actions of 0.01, four of them behind the second picture
    assert policy.positions[10] == pytest.approx(first)


def test_a_late_context_lets_the_old_one_go_on() -> None:
    _, flown = fly(20, late=4)
    assert flown[9] == (1, 1, 9) and flown[10] == (2, 1, 10)
    assert flown[13] == (2, 1, 13) and flown[14] == (2, 2, 0)


def test_a_policy_that_has_not_learned_to_begin_late_skips_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingPolicy, "spec", replace(CountingPolicy.spec, trained_delay=0))
    policy, flown = fly(25, age=3)
    assert flown[9] == (2, 1, 9) and flown[10] == (2, 2, 3) and flown[19] == (3, 2, 12)
    assert policy.positions[10] == pytest.approx(0.03), "the sum of what it skips"
    _, flown = fly(25, age=6)
    assert flown[10] == (2, 2, 4), "two thirds of the overrun at most"
    policy, flown = fly(25, age=3, head="chunk")
    assert flown[10] == (2, 2, 0) and policy.ages == [0, 3, 3], "a chunk begins where it takes over"


def test_the_action_sum_begins_at_zero_at_every_hand_over() -> None:
    policy, _ = fly(12)
    assert policy.positions[:3] == pytest.approx([0.0, 0.01, 0.02])
    assert policy.positions[10] == 0.0


def test_a_blank_camera_is_black() -> None:
    policy, _ = fly(1, blank=("eye",))
    assert not policy.seen[0].images.any()
    assert fly(1)[0].seen[0].images.mean() > 150


def test_what_is_drawn_follows_the_episode() -> None:
    options = RunnerOptions(cache=CacheOptions(cache_policy="random"))
    runner = ClosedLoopRunner(cast(Any, CountingPolicy()), options)
    for seed in (3, 4):
        runner.begin("go", seed)
        assert cast(Random, runner.cache.policy).seed == seed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"late": 7}, "late is 7"), ({"age": 11}, "age 11"), ({"blank": ("nose",)}, "nose"), ({"age": -1}, "age -1")],
)
def test_options_that_a_policy_cannot_fly_with(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ClosedLoopRunner(cast(Any, CountingPolicy()), RunnerOptions(**options))


def test_wordings() -> None:
    for task in TASKS.values():
        assert wording(Trial(task.name, 10_000)) == task.instructions[0]
        assert wording(Trial(task.name, 10_001, "held_out")) in task.held_out
        forbidden = {task.name, *SAME_SCENE.get(task.name, ())}
        for seed in range(10_000, 10_020):
            words = wording(Trial(task.name, seed, "wrong"))
            assert not any(words in get_task(other).instructions for other in forbidden)
    with pytest.raises(ValueError, match="'loud' is unknown"):
        wording(Trial("reach", 0, "loud"))


def test_an_arm_of_another_robot_is_told_its_own_words() -> None:
    assert wording(Trial("push", 10_000, robot="so101")).startswith("push the {colour} cube")
    with pytest.raises(ValueError, match="unknown task 'reach': choose one of touch"):
        wording(Trial("reach", 0, robot="so101"))
    with pytest.raises(ValueError, match="instruction wrong is of robot metaworld"):
        wording(Trial("push", 0, "wrong", robot="so101"))
    assert ROBOTS["so101"].steps("touch") == 300 and ROBOTS["so101"].steps("pick") == 600


def test_names_of_tasks_and_seeds() -> None:
    assert select_tasks("mt10") == list(TASKS)
    assert select_tasks("reach, count") == ["reach", "count"]
    assert set(select_tasks("all")) == set(TASKS) | set(select_tasks("memory"))
    assert parse_seeds("10000:10003") == range(10_000, 10_003)
    for wrong in ("5", "7:7", "a:b", "-3:4"):
        with pytest.raises(ValueError, match="are no range"):
            parse_seeds(wrong)


def test_successes_are_counted_per_task() -> None:
    end = MemoryOutcome(4, 50, 5000, 9000, 100, 0, 50, 0)
    results = [EpisodeResult(Trial("reach", seed), seed < 3, 40 + seed, end) for seed in range(4)]
    results += [EpisodeResult(Trial("push", 0), True, 70, end)]
    for seed in range(4):
        cued = replace(end, tokens=60, kept=1, cue=seed % 2, cue_held=seed != 3)
        results.append(EpisodeResult(Trial("count", seed), True, 90, cued))
    table = tabulate(results, RunnerOptions())
    assert json.loads(json.dumps(table))["mean"] == table["mean"], "it is written to a file"
    assert table["per_task"]["reach"]["success"] == 0.75 and table["per_task"]["reach"]["median_steps"] == 41
    assert table["mean"] == pytest.approx((0.75 + 1.0 + 1.0) / 3) and table["all"]["successes"] == 8
    assert table["per_task"]["count"]["cache"]["cue_held"] == {"0": [2, 2], "1": [1, 2]}
    assert table["per_task"]["reach"]["cache"]["tokens"] == 50 and table["all"]["cache"]["tokens"] == 490 / 9
    assert "| reach | 3/4 | 0.750 |" in to_markdown(table)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--closed-loop"),
        (["--closed-loop", "--seeds", "9"], "are no range"),
        (["--closed-loop", "--tasks", "dance"], "unknown task 'dance'"),
        (["nobody", "--closed-loop"], "nobody"),
        (["--closed-loop", "--head", "tail"], "head 'tail' is unknown: choose one of flow, chunk"),
        (["--closed-loop", "--cache", "gated"], "cache gated needs a gate, a name or a file: --gate"),
        (["--closed-loop", "--gate", "compact_mt10_gate"], "cache window has no gate: choose cache gated for"),
        (["--closed-loop", "--memory-map", "map.txt"], "memory map 'map.txt': its name must end in .png"),
    ],
)
def test_a_wrong_command_is_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 1
    assert sentence in result.output + (result.stderr or "") and "Traceback" not in result.output


class Deadly:
    """A trial that ends the process which receives it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_a_process_that_dies_ends_the_evaluation(tmp_path: Path) -> None:
    trials = [cast(Trial, Deadly()), Trial("reach", 0)]
    with pytest.raises(WorkerLost, match="run the command again"):
        list(evaluate(str(tmp_path / "none.safetensors"), trials, RunnerOptions()))
