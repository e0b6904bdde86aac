"""Whole runs: what learns, what stays, how a run goes on, and what flies behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from vla_runs import POLICIES

from kv_cache.cache import SessionCache
from kv_cache.policies import Full
from streaming_vla.engine.cache import EngineOptions
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.loading import look_at_model, survey_model
from streaming_vla.engine.options import CacheOptions, ModelOptions
from streaming_vla.engine.values import EncodedObservation
from streaming_vla.images.encode import encode_pixels
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole, run_slices
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.flow_head.policy import FlowHeadPolicy
from streaming_vla.policies.lerobot.load import WEIGHTS
from streaming_vla.policies.registry import load_policy
from streaming_vla.training.vla.batches import Batch
from streaming_vla.training.vla.export import export
from streaming_vla.training.vla.losses import read_observations
from streaming_vla.training.vla.passes import Passes
from streaming_vla.training.vla.trainer import LOG, VlaTrainer
from streaming_vla.training.vla.windows import Answer, Moment, answer_at

KINDS = ("smolvla", "pi05")
LEARNS = (".lm_expert.", ".gemma_expert.model.", ".action_in_proj.", ".action_out_proj.", "time_mlp_")


def still(*_: Any) -> None:
    """Show nothing."""


def trained(run: Any, until: int | None = None) -> VlaTrainer:
    trainer = VlaTrainer(run)
    trainer.train(still, until)
    return trainer


def exported(run: Any, sidecar: Any, output: Path) -> Any:
    export(run, sidecar, output)
    return load_policy(f"lerobot:{output}")


def with_averages(run: Any, trainer: VlaTrainer) -> Any:
    """Return a run whose network has what is exported."""
    with torch.no_grad():
        for name, value in trainer.learned.items():
            value.copy_(trainer.average[name])
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_learns_and_nothing_else_changes_a_bit(made: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    run, sidecar = made(kind, "flow")
    trained(run, until=3)
    export(run, sidecar, tmp_path / "out")
    before = load_file(POLICIES / kind / "checkpoint" / WEIGHTS)
    after = load_file(tmp_path / "out" / WEIGHTS)
    assert before.keys() == after.keys(), "lerobot loads the same names"
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    of_expert = {name for name in before if any(part in name for part in LEARNS)}
    assert moved <= of_expert and 40 < 0.95 * len(of_expert) <= len(moved)
    fresh = load_file(tmp_path / "out" / "streaming_vla.safetensors")
    assert float(fresh["fresh.outer.weight"].abs().max()) > 0.0


def test_a_run_that_goes_on_repeats_the_one_that_was_never_stopped(made: Callable[..., Any]) -> None:
    plan = {"augment": {"shift": 2, "colour": 0.2, "state_noise": 0.05, "blank": (0.1, 0.1)}}
    whole = trained(made("smolvla", "flow", "whole", **plan)[0])
    stopped = made("smolvla", "flow", "stopped", **plan)[0]
    trained(stopped, until=3)
    (stopped.folder / LOG).open("a").write(json.dumps({"step": 5, "flow": 1.0}) + "\n")  # behind its last checkpoint
    again = trained(made("smolvla", "flow", "stopped", **plan)[0], until=5)
    assert again.step == 5
    again = trained(made("smolvla", "flow", "stopped", **plan)[0])
    assert again.step == whole.step == 8
    for name, value in whole.learned.items():
        assert torch.equal(value, again.learned[name]) and torch.equal(whole.average[name], again.average[name]), name
    logs = [(folder / LOG).read_text().splitlines() for folder in (whole._run.folder, again._run.folder)]
    assert [json.loads(line)["step"] for line in logs[1]] == [8]
    assert json.loads(logs[0][-1])["flow"] > 0.0


def test_a_folder_of_another_run_is_refused(made: Callable[..., Any]) -> None:
    VlaTrainer(made("smolvla", "flow")[0])
    with pytest.raises(ValueError, match="another plan"):
        VlaTrainer(made("smolvla", "flow", batch=2)[0])


@pytest.mark.parametrize("head", ["flow", "chunk"])
def test_the_loss_falls(made: Callable[..., Any], head: str) -> None:
    optimiser = {"steps": 60, "learning_rate": 3e-3, "warm_up": 5, "average": 0.9, "clip": 10.0}
    run, _ = made("smolvla", head, optimiser=optimiser, learns=("expert", "state"), batch=8)
    losses: list[float] = []
    VlaTrainer(run).train(lambda _done, _total, loss: losses.append(loss))
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize("kind", KINDS)
def test_a_robot_is_answered_as_was_learned(made: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    """One flow step behind the contract equals a moment of the training without noise, at a whole step."""
    run, sidecar = made(kind, "flow")
    trainer = trained(run, until=4)
    policy = exported(run, sidecar, tmp_path / "out")
    assert isinstance(policy, FlowHeadPolicy) and not policy.spec.chunk
    run = with_averages(run, trainer)
    with torch.no_grad():
        for name, value in run.fresh.named_parameters():  # so that it says something
            value.mul_(8.0)
            policy.fresh.get_parameter(name).copy_(value)

    horizon, options, units = run.plan.horizon, run.plan.flow, run.batches._units
    part, path = run.batches._parts[1], run.batches.paths[1]
    picture, begun, index, late = 4, 2, 5, 2
    moment = Moment(begun, (index - begun) / horizon, late, np.zeros(6))
    answer = answer_at(path, picture, moment, horizon, options, units)
    fields = [np.asarray(each)[None, None] for each in answer]
    batch = Batch(
        part.pictures(picture)[None], part.state[picture][None], (part.instruction,), Answer(*fields), np.zeros(0)
    )
    passes = Passes(run.policy.network)
    with torch.no_grad():
        context = read_observations(run.policy, passes, batch, run.plan.augment, torch.Generator().manual_seed(0))
        seen = torch.from_numpy(run.policy.before.state.normalise(fields[2].astype(np.float32)))
        told = torch.from_numpy(fields[3].astype(np.float32))
        added = run.fresh(seen, told, torch.tensor([[index / horizon]]))
        moved = torch.nn.functional.pad(torch.from_numpy(fields[0].astype(np.float32)), (0, 32 - 6))
        step = passes.answer(moved, torch.tensor([[moment.time]]), context, chunk=False, added=added)[0, 0, :6]
    learned = units.action(path.told[picture + index], step.double().numpy())

    cache = SessionCache(policy.spec.cache, Full(policy.spec.tokens_per_observation))
    observation = PolicyObservation(part.pictures(picture), part.state[picture], part.instruction)
    left = prefill_whole(policy, observation, cache.view())
    cache.append(left.keys, left.values)
    query = FlowQuery(
        cache.view(),
        path.told[picture + index],
        index,
        left.context,
        part.state[picture + index - late],
        late / 30,
        path.told[picture + index],
        begun,
        path.told[picture + begun],
    )
    action = policy.flow_step(query)
    np.testing.assert_allclose(action, policy.spec.layout.clip(learned), rtol=2e-5, atol=2e-5)
    moved_on = FlowQuery(*(getattr(query, name) for name in ("view", "position", "index", "context")),
                         part.state[picture], 0.0, query.pending, begun, query.begun)  # fmt: skip
    assert np.abs(policy.flow_step(moved_on) - action).max() > 1e-4, "it is told where the robot is"
    with pytest.raises(ValueError, match="flow step 12 is outside"):
        policy.flow_step(FlowQuery(cache.view(), path.told[0], 12, left.context))


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_head_is_trained_on_what_it_denoises(made: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    run, sidecar = made(kind, "chunk")
    trainer = trained(run, until=2)
    policy = exported(run, sidecar, tmp_path / "out").policy
    run = with_averages(run, trainer)
    part = run.batches._parts[0]
    batch = Batch(part.pictures(2)[None], part.state[2][None], (part.instruction,), None, np.zeros(0))  # type: ignore[arg-type]
    noisy = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    passes = Passes(run.policy.network)
    cache = SessionCache(policy.spec.cache, Full(policy.spec.tokens_per_observation))
    observation = PolicyObservation(part.pictures(2), part.state[2], part.instruction)
    left = prefill_whole(policy, observation, cache.view())
    cache.append(left.keys, left.values)
    with torch.inference_mode():
        context = read_observations(run.policy, passes, batch, run.plan.augment, torch.Generator().manual_seed(0))
        learned = passes.answer(noisy, torch.full((1, 12), 0.7), context, chunk=True)[0]
        flown = policy.network.velocity(noisy[0], 0.7, left.context.prepared(policy.network, cache.view()))
    torch.testing.assert_close(learned, flown, rtol=1e-4, atol=1e-4)
    rows = run_slices(policy.denoise(cache.view(), left.context, 4, None, np.random.default_rng(0)))
    assert rows.shape == (12, 6) and policy.spec.layout.absolute == (True,) * 6
    assert policy.spec.layout.names[0] == "shoulder_pan.pos" and policy.spec.execution_horizon == 6


def observation_of(run: Any, sequence: int, step: int) -> EncodedObservation:
    part = run.batches._parts[0]
    pictures = tuple(encode_pixels(each[..., ::-1], 100) for each in part.pictures(step))
    return EncodedObservation("/arm", 1, sequence, part.instruction, pictures, part.state[step])


def test_the_engine_flies_it(made: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing was sent before the first context: its targets begin where the joints are. The next one takes over."""
    run, sidecar = made("smolvla", "flow")
    trained(run, until=2)
    policy = exported(run, sidecar, tmp_path / "out")
    queries: list[FlowQuery] = []
    step = policy.flow_step
    policy.flow_step = lambda query: (queries.append(query), step(query))[1]
    tokens = policy.spec.tokens_per_observation
    engine = Engine(policy, EngineOptions(CacheOptions(cache_policy="newest", cache_recent=tokens), 1))
    state, layout = run.batches._parts[0].state, policy.spec.layout
    now, actions = 0.0, []

    def finish() -> None:
        nonlocal now
        while engine.deadline() <= now:
            actions.extend(r.value for r in engine.poll(now) if isinstance(r.value, GeneratedAction))

    engine.observe(observation_of(run, 0, 0), now)
    finish()
    start = layout.start()
    engine.generate("/arm", GenerateRequest(1, 0, 1, 0, start, 6, state[0], 0.0, start), now)
    finish()
    assert [action.accepted for action in actions] == [True] * 6
    change = np.abs(actions[0].values - state[0])
    assert (change < 6.0 * np.array(sidecar.scale)).all(), "from where the arm stands, not from a pose of the data"
    assert np.abs(start - state[0]).max() > 6.0 * max(sidecar.scale)

    now, held = 0.2, actions[5].values
    engine.observe(observation_of(run, 1, 3), now)
    finish()
    engine.generate("/arm", GenerateRequest(1, 1, 2, 3, held, 8, state[6], 0.01, held), now)  # three actions late
    finish()
    late = queries[6:]
    assert [(query.first, query.index) for query in late] == [(3, index) for index in range(3, 8)]
    assert all(np.array_equal(query.begun, held) for query in late)
    assert np.abs(actions[6].values - held).max() < 6.0 * max(sidecar.scale), "no jump"
    assert all(np.isfinite(action.values).all() for action in actions)


def test_files_are_checked_before_they_fly(made: Callable[..., Any], tmp_path: Path) -> None:
    run, sidecar = made("smolvla", "flow")
    trained(run, until=1)
    out = tmp_path / "out"
    export(run, sidecar, out)
    export(run, sidecar, out)  # in the place of an older one
    model = ModelOptions(model=f"lerobot:{out}")
    assert survey_model(model) == [] and look_at_model(model).spec.state_names[0] == "shoulder_pan.pos"
    content = json.loads((out / "streaming_vla.json").read_text())
    assert content["training"]["plan"]["horizon"] == 12 and content["head"] == "flow"

    def refused(**changes: Any) -> str:
        (out / "streaming_vla.json").write_text(json.dumps({**content, **changes}))
        with pytest.raises(CheckpointError) as error:
            load_policy(f"lerobot:{out}")
        assert survey_model(model), "doctor says it too"
        return str(error.value)

    assert "scale has 5 entries, config.json tells 6" in refused(scale=[1.0] * 5)
    assert "scale" in refused(scale=[0.0] * 6)
    assert "head" in refused(head="mystery")
    assert "streams is" in refused(streams=3) or "streams = 3 is not supported" in refused(streams=3)
    assert "horizon is 24" in refused(horizon=24)
    assert "joints has 6" in refused(joints=[0, 1, 2, 3, 4, 6])
    (out / "streaming_vla.json").write_text(json.dumps(content))
    (out / "streaming_vla.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds the flow head's own tensors"):
        load_policy(f"lerobot:{out}")
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="choose another --output"):
        export(run, sidecar, other)
    assert (other / "notes.txt").exists()


def test_pictures_are_made_ready_once_and_as_the_observer_sends_them(made: Callable[..., Any]) -> None:
    run, _ = made("smolvla", "flow")
    files = sorted((run.folder / "pictures").iterdir())
    kept = [(file.name, file.stat().st_mtime_ns) for file in files]
    run, _ = made("smolvla", "flow")
    assert [(file.name, file.stat().st_mtime_ns) for file in sorted((run.folder / "pictures").iterdir())] == kept
    pictures = run.batches._parts[0].pictures(7)
    assert pictures.shape == (2, 32, 32, 3)
    assert pictures[0, :8].mean() < 5.0 < 50.0 < pictures[0, 8:].mean(), "64 x 48 pixels are padded above"
    inverse = {step: run.batches.make(step) for step in (2, 0, 1)}
    for step in range(3):
        batch = run.batches.make(step)
        assert np.array_equal(batch.pictures, inverse[step].pictures)
        assert all(np.array_equal(*pair) for pair in zip(batch.flow, inverse[step].flow, strict=True))
    assert batch.flow.moved.shape == (3, 4, 6) and batch.flow.age.shape == (3, 4)
