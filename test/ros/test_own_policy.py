"""The examples of docs/how-to/own-policy.md, each flown by the whole graph from its parameter file."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flight import flying
from robot_stand_in import RobotStandIn
from stalls import StallWitness
from std_msgs.msg import Float64MultiArray

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
PAGE = (DOCS / "how-to" / "own-policy.md").read_text(encoding="utf-8")
GOAL = np.array([0.1, 0.7, 0.25])
PERIOD_S = 0.05

# What it does is seen in its actions: dx is the same in all of them, so that the state counts the actions before the
# picture, and dy of row i is the number of that action. Every guide is written down.
COUNTING = """
import json, os
from dataclasses import replace
import numpy as np
from chunk_policy import SPEC, GoalChunkPolicy

class Counting(GoalChunkPolicy):
    spec = replace(SPEC, name="counting")

    def denoise(self, view, context, steps, guide, random):
        before = round((float(context[0]) - 0.0) / 0.005)
        chunk = np.zeros((20, 4))
        chunk[:, 0], chunk[:, 1], chunk[:, 3] = 0.5, (before + np.arange(20)) / 1000, -1.0
        told = None if guide is None else [guide.target.tolist(), guide.weight.tolist()]
        with open(os.environ["GUIDES"], "a") as file:
            print(json.dumps({"before": before, "guide": told, "steps": steps}), file=file)
        for _ in range(steps):
            yield
        return chunk
"""
PROFILE = """
description: a model that takes 150 ms to observe
control_period_ms: 50.0
observe: {median_ms: 150.0, p99_ms: 150.0}
flow_step: {median_ms: 5.0, p99_ms: 5.0}
transport: {median_ms: 5.0, p99_ms: 5.0}
"""


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def parameters(*changes: dict[str, Any], model: str = "") -> str:
    """Return the page's parameter file with more in it."""
    settings = yaml.safe_load(blocks("yaml")[0])
    for change in changes:
        for section, body in change.items():
            settings.setdefault(section, {"ros__parameters": {}})["ros__parameters"] |= body["ros__parameters"]
    if model:
        settings["/**/inference"]["ros__parameters"]["model"] = model
    return yaml.safe_dump(settings)


def test_the_page_shows_the_examples_and_its_own_code_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from streaming_vla.parameters.load import read
    from streaming_vla.policies.registry import load_policy

    flow, chunk, blocking = blocks("python")
    assert flow == (DOCS / "examples" / "flow_policy.py").read_text(encoding="utf-8")
    assert chunk == (DOCS / "examples" / "chunk_policy.py").read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "blocking_function.py").write_text(blocking, encoding="utf-8")
    (tmp_path / "robot.yaml").write_text(parameters(), encoding="utf-8")
    suite = read(tmp_path / "robot.yaml")
    for model in (
        suite.inference.model,
        "python:chunk_policy:GoalChunkPolicy",
        "python:blocking_function:make_policy",
    ):
        suite.check_policy(load_policy(model).spec)


@pytest.fixture
def robot(domain: int) -> Iterator[RobotStandIn]:
    made = RobotStandIn(domain)
    yield made
    made.close()


@pytest.mark.parametrize("model", ["python:flow_policy:GoalPolicy", "python:chunk_policy:GoalChunkPolicy"])
def test_the_examples_bring_the_hand_to_its_place(
    probe: Any, robot: RobotStandIn, tmp_path: Path, domain: int, model: str
) -> None:
    witness = StallWitness()
    try:
        with flying(probe, robot, tmp_path, domain, parameters(model=model), [EXAMPLES]) as flight:
            flight.begin()
            flight.run(hand_overs=1)  # until then nobody knows how long the policy takes
            begin_s, before_s = time.time(), flight.starved_s()
            probe.wait(lambda: np.abs(robot.hand - GOAL).max() < 0.01, "the hand does not arrive", 60.0)
            flight.run(hand_overs=flight.newest().hand_overs + 3)
            end_s, starved_s = time.time(), flight.starved_s() - before_s
            times_s = [time_s for time_s, _ in robot.commands]
    finally:
        witness.close()
    assert np.median(np.diff(times_s)) == pytest.approx(PERIOD_S, rel=0.1)
    assert starved_s - witness.stalled_s(begin_s, end_s) < 0.1 * (end_s - begin_s), "it starves after the first chunk"


def test_a_chunk_takes_over_at_the_row_that_fits_and_is_guided(
    probe: Any, robot: RobotStandIn, tmp_path: Path, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counting_policy.py").write_text(COUNTING, encoding="utf-8")
    (tmp_path / "slow.yaml").write_text(PROFILE, encoding="utf-8")
    monkeypatch.setenv("GUIDES", str(tmp_path / "guides.jsonl"))
    inference = {"latency_profile": str(tmp_path / "slow.yaml"), "model_denoise_steps": 4}
    text = parameters({"/**/inference": {"ros__parameters": inference}}, model="python:counting_policy:Counting")
    with flying(probe, robot, tmp_path, domain, text, [EXAMPLES]) as flight:
        flight.begin()
        flight.run(hand_overs=5)
        first = {context: each[0] for context, each in flight.indices().items()}
        rows = [round(float(action.flow_time) * 20) for _, action in flight.actions if action.index == 0]
        numbers = np.round(1000 * robot.moves()[:, 1])
    assert set(first.values()) == {0} and len(first) >= 5
    assert rows[0] == 0 and min(rows[2:5]) >= 3, "a picture is at least three actions old when its context takes over"
    # without the skipped rows every hand-over would go back by three or more
    assert np.abs(numbers - np.arange(len(numbers))).max() <= 1.0, numbers
    guides = [json.loads(line) for line in (tmp_path / "guides.jsonl").read_text().splitlines()]
    assert guides[0]["guide"] is None, "nothing was planned"
    assert {each["steps"] for each in guides} == {4}
    for each in guides[2:]:
        target, weight = np.array(each["guide"][0]), np.array(each["guide"][1])
        planned = np.flatnonzero(target[:, 0])
        assert len(planned) >= 3 and planned[0] == 0, "the actions ahead are told"
        assert target[planned, 0] == pytest.approx(0.5)
        assert np.abs(1000 * target[planned, 1] - each["before"] - planned).max() <= 1.01
        assert weight[0] == 1.0 and np.all(np.diff(weight) <= 0.0)
    assert sum(np.array(each["guide"][1])[:3].min() == 1.0 for each in guides[3:]) > 0, "the expected delay is told"


def test_a_dry_run_flies_the_whole_graph_and_moves_nothing(
    probe: Any, robot: RobotStandIn, tmp_path: Path, domain: int
) -> None:
    previews = probe.record(Float64MultiArray, "command_preview")
    text = parameters({"/**/executor": {"ros__parameters": {"dry_run": True}}}, model="python:flow_policy:GoalPolicy")
    with flying(probe, robot, tmp_path, domain, text, [EXAMPLES]) as flight:
        before = robot.hand
        flight.begin()
        flight.run(hand_overs=3)
        newest = flight.newest()
    assert newest.dry_run and newest.executed > 10
    assert len(previews) >= newest.executed and np.any(previews[0][1].data[:3])
    assert robot.commands == [] and np.array_equal(robot.hand, before)


def test_the_synchronous_baseline_executes_a_chunk_and_then_looks(
    probe: Any, robot: RobotStandIn, tmp_path: Path, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = parameters(yaml.safe_load(blocks("yaml")[1]), model="python:chunk_policy:GoalChunkPolicy")
    with flying(probe, robot, tmp_path, domain, text, [EXAMPLES]) as flight:
        flight.begin()
        flight.run(hand_overs=3)
        indices, starved_s = flight.indices(), flight.starved_s()
    whole = list(indices.values())[:3]
    assert whole == [list(range(10))] * 3
    assert starved_s > 0.0, "it waits for each context"
