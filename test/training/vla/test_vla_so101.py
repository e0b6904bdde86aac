"""From the simulated SO-101 to a policy that streams: demonstrations, a small SmolVLA of random weights, the robot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vla_runs import prepared, tiny_plan, wanted

from kv_cache.cache import SessionCache
from kv_cache.policies import Full
from streaming_vla.datasets.facts import Camera, DatasetFacts
from streaming_vla.datasets.storage import Storage
from streaming_vla.datasets.writer import Step, write_dataset
from streaming_vla.images.fit import fit
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole
from streaming_vla.policies.registry import load_policy
from streaming_vla.sim.so101.arm import JOINTS
from streaming_vla.training.vla.export import export
from streaming_vla.training.vla.small import SMALL
from streaming_vla.training.vla.trainer import VlaTrainer

pytest.importorskip("mujoco")
STEPS = 14


@pytest.fixture
def robot() -> Any:
    from streaming_vla.sim.so101.robot import So101Robot

    return So101Robot(picture_size=(64, 48))


def demonstrated(robot: Any) -> Iterator[Step]:
    for seed in range(2):
        robot.reset("touch", seed)
        for _ in range(STEPS):
            seen, action = robot.observe(), robot.expert_action()
            pictures = {name: np.ascontiguousarray(each[..., ::-1]) for name, each in seen.pictures.items()}
            yield Step(seed, seen.instruction, pictures, seen.state, np.asarray(action, dtype=np.float32))
            robot.step(action)


def test_a_small_vla_learns_from_its_demonstrations_and_moves_it(robot: Any, tmp_path: Path) -> None:
    cameras = tuple(Camera(name, 48, 64) for name in robot.cameras)
    facts = DatasetFacts(Fraction(30), cameras, JOINTS, JOINTS, "so101", action_absolute=(True,) * 6)
    write_dataset(tmp_path / "set", demonstrated(robot), facts, Storage.png)
    every = ("expert", "state", "text", "vision")
    plan = tiny_plan(learns=every, batch=2, horizon=8, flow={"draws": 2, "delay": 4})
    what = replace(wanted("smolvla", "flow", tmp_path / "run", tmp_path / "set"), model=SMALL, assets=None, plan=plan)
    run, sidecar = prepared(what)
    assert sidecar.joints == (0, 1, 2, 3, 4, 5) and all(scale < 0.5 for scale in sidecar.scale), "rad an action"
    trainer = VlaTrainer(run)
    losses: list[float] = []
    trainer.train(lambda _done, _total, loss: losses.append(loss), until=3)
    assert len(losses) == 3 and np.isfinite(losses).all()
    export(run, sidecar, tmp_path / "out")

    policy: Any = load_policy(f"lerobot:{tmp_path / 'out'}")  # tokenizer and configuration are in the folder
    spec = policy.spec
    assert spec.layout.names == JOINTS and spec.cameras == robot.cameras and spec.control_period_s == 1 / 30
    robot.reset("touch", 5)
    seen = robot.observe()
    images = np.stack([fit(seen.pictures[name], spec.image_size, spec.image_fit, 0) for name in spec.cameras])
    cache = SessionCache(spec.cache, Full(spec.tokens_per_observation))
    left = prefill_whole(policy, PolicyObservation(images, seen.state, seen.instruction), cache.view())
    cache.append(left.keys, left.values)
    position = begun = spec.layout.start()
    for index in range(4):
        query = FlowQuery(cache.view(), position, index, left.context, robot.state(), 0.0, position, 0, begun)
        position = policy.flow_step(query)
        robot.step(position)
        assert np.abs(position - robot.state()).max() < 1.0, "it stays near the arm"
