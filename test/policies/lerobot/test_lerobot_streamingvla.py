"""StreamingVLA's published weights, by a tiny random checkpoint of the same names."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import GOLDEN, observed, prefilled
from safetensors.torch import save_file
from torch import Tensor

from kv_cache.cache import SessionCache
from kv_cache.policies import Full
from streaming_vla.policies.contract import FlowQuery, PolicyObservation, prefill_whole
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.geometry import Geometry, published
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.pi import Pi, PiShape, names_of
from streaming_vla.policies.lerobot.streamingvla.load import load_streamingvla
from streaming_vla.policies.lerobot.streamingvla.policy import HORIZON, TYPICAL_CHANGE, StreamingVLAPolicy
from streaming_vla.policies.lerobot.streamingvla.predictor import Predictor, PredictorSizes
from streaming_vla.policies.lerobot.weights import build

LOW, HIGH = [-0.9, -0.8, -0.7, -0.1, -0.2, -0.3, -1.0], [0.8, 0.9, 0.6, 0.2, 0.1, 0.3, 1.0]
Make = Callable[..., Path]


def sizes() -> dict[str, Any]:
    return json.loads((GOLDEN / "pi05" / "geometry.json").read_text())["fixture"]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=random) / (max(1, shape[-1]) ** 0.5 if len(shape) > 1 else 8.0)
        for name, shape in shapes.items()
    }


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder as the release's training writes it: no config.json, the tied embedding under its head's name."""
    folder = tmp_path / "release"
    (folder / "assets" / "physical-intelligence" / "libero").mkdir(parents=True)
    geometry = Geometry(**sizes())
    names = names_of(geometry, True)
    network = build(lambda: Pi(geometry, PiShape(True, 1, 32, 32, 4e-3, 4.0)))
    shapes = {names.in_file(name): tuple(value.shape) for name, value in network.state_dict().items()}
    held = random_state(shapes | dict(names.required), seed=1)
    embedding = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    held["model.paligemma_with_expert.paligemma.lm_head.weight"] = held.pop(embedding)
    held["model.paligemma_with_expert.gemma_expert.lm_head.weight"] = torch.zeros(420, 32)
    save_file({name.removeprefix("model."): value for name, value in held.items()}, folder / "model.safetensors")
    actions = {"mean": [0.0] * 7, "std": [1.0] * 7, "q01": LOW, "q99": HIGH}
    statistics = {"norm_stats": {"state": {}, "actions": actions, "action_states": actions}}
    (folder / "assets" / "physical-intelligence" / "libero" / "norm_stats.json").write_text(json.dumps(statistics))
    return folder


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "vlm"
    shutil.copytree(GOLDEN / "pi05" / "vlm", folder)
    (folder / "geometry.json").write_text(json.dumps(sizes()))
    return folder


def predictor_file(path: Path, light: bool, tokens: int = 64) -> Path:
    of = PredictorSizes(
        tokens=tokens, width=32 if light else tokens, light=light, layers=3, mlp=24, condition=5, actions=6
    )
    network = build(lambda: Predictor(of))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    save_file(random_state(shapes, seed=2), path)
    return path


def loaded(release: Path, assets: Path, **more: Any) -> StreamingVLAPolicy:
    return load_streamingvla(release, LoadOptions(assets=assets), **more)


def query(view: Any, left: Any, index: int, position: Any) -> FlowQuery:
    return FlowQuery(view, np.asarray(position, dtype=np.float64), index, left.context)


def test_the_real_names_and_shapes() -> None:
    """As the release's construction gives them; counted without the head that is tied to the embedding."""
    geometry = published()
    network = build(lambda: Pi(geometry, PiShape(True, 1, 32, 32, 4e-3, 4.0)))
    names = names_of(geometry, True)
    shapes = {names.in_file(name): tuple(value.shape) for name, value in network.state_dict().items()} | dict(
        names.required
    )
    both = "model.paligemma_with_expert"
    assert shapes[f"{both}.paligemma.model.vision_tower.vision_model.encoder.layers.26.mlp.fc1.weight"] == (4304, 1152)
    assert shapes[f"{both}.paligemma.model.language_model.layers.17.self_attn.k_proj.weight"] == (256, 2048)
    assert shapes[f"{both}.gemma_expert.model.layers.0.input_layernorm.dense.weight"] == (3072, 1024)
    assert shapes["model.time_mlp_in.weight"] == (1024, 1024) and shapes["model.action_out_proj.weight"] == (32, 1024)
    heads = sum(int(np.prod(shape)) for shape in names.optional.values())
    assert sum(int(np.prod(shape)) for shape in shapes.values()) + heads == 4_143_404_816


def test_a_step_begins_at_the_sum_of_what_was_executed(release: Path, assets: Path) -> None:
    policy = loaded(release, assets)
    view, left = prefilled(policy)
    executed = left.context.executed
    scale = 1.0 / (np.maximum(np.abs(LOW), np.abs(HIGH)) + 1e-6)
    position = np.array([0.3, -0.1, 0.2, 0.0, 0.1, 0.0, 2.0])
    for index in (0, 4, 9):
        state = torch.zeros(1, 32)
        state[0, :7] = torch.from_numpy(scale * (executed + position)).float()
        with torch.inference_mode():
            prepared = policy.network.prepare(view, view.tokens, torch.zeros(0))
            velocity = policy.network.velocity(state, index / HORIZON, prepared)[0, :7].double().numpy()
        expected = policy.spec.layout.clip(0.1 * velocity / scale)
        assert policy.flow_step(query(view, left, index, position)) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="outside of the trained horizon"):
        policy.flow_step(query(view, left, 10, position))


def test_actions_depend_on_all_that_they_should(release: Path, assets: Path) -> None:
    policy = loaded(release, assets)
    view, left = prefilled(policy)
    first = policy.flow_step(query(view, left, 0, np.zeros(7)))
    assert np.array_equal(first, policy.flow_step(query(view, left, 0, np.zeros(7))))  # no noise is drawn
    assert not np.allclose(first, policy.flow_step(query(view, left, 5, np.zeros(7))), atol=1e-4)
    assert not np.allclose(first, policy.flow_step(query(view, left, 0, np.full(7, 0.5))), atol=1e-4)
    other, left_other = prefilled(policy, seed=3)
    same_start = left_other._replace(context=left_other.context._replace(executed=left.context.executed))
    assert not np.allclose(first, policy.flow_step(query(other, same_start, 0, np.zeros(7))), atol=1e-4)


def test_the_formula_that_the_release_runs(release: Path, assets: Path) -> None:
    """Each action and the sum before are mapped to -1 .. 1 on their own, as its data loader does."""
    policy = loaded(release, assets, normalisation="quantile")
    view, left = prefilled(policy)
    span = np.array(HIGH) - LOW + 1e-6

    def mapped(values: Any) -> Any:
        return (values - np.array(LOW)) / span * 2.0 - 1.0

    actions = np.random.default_rng(1).uniform(-0.1, 0.1, (3, 7))
    state = torch.zeros(1, 32)
    state[0, :7] = torch.from_numpy(mapped(left.context.executed) + sum(mapped(each) for each in actions)).float()
    with torch.inference_mode():
        prepared = policy.network.prepare(view, view.tokens, torch.zeros(0))
        velocity = policy.network.velocity(state, 0.3, prepared)[0, :7].double().numpy()
    expected = policy.spec.layout.clip((0.1 * velocity + 1.0) / 2.0 * span + LOW)
    assert policy.flow_step(query(view, left, 3, actions.sum(axis=0))) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(CheckpointError, match="expected one of linear, quantile"):
        loaded(release, assets, normalisation="none")


def test_its_prompt_and_its_spec(release: Path, assets: Path) -> None:
    policy = loaded(release, assets)
    words = policy.words(" pick_up the\ncube ")
    assert words == policy.words("pick up the cube")
    assert words[0] == policy.words("")[0] == 2 and words[-1] == policy.words("")[-1]
    spec = policy.spec
    assert spec.cameras == ("base_0_rgb", "left_wrist_0_rgb") and spec.state_size == 7
    assert spec.layout.absolute == (False,) * 7 and spec.trained_horizon == 10 and spec.trained_delay == 0
    assert spec.state_names[0] == "executed_x"
    renamed = LoadOptions(assets=assets, cameras={"wrist": "left_wrist_0_rgb", "front": "base_0_rgb"})
    assert load_streamingvla(release, renamed).spec.cameras == ("front", "wrist")


@pytest.mark.parametrize("light", [False, True])
def test_the_predictor_is_the_releases(release: Path, assets: Path, tmp_path: Path, light: bool) -> None:
    file = predictor_file(tmp_path / "predictor.safetensors", light)
    policy = loaded(release, assets, predictor=file)
    assert policy.predictor is not None
    weights = policy.predictor.state_dict()
    tokens, pending = torch.randn(4, 64, generator=torch.Generator().manual_seed(3)), torch.randn(7).double().numpy()
    expected = written_out(weights, tokens, torch.from_numpy(pending[:6]).float(), light)
    with torch.inference_mode():
        moved = policy.predictor(tokens, torch.from_numpy(pending[:6]).float())
    assert torch.allclose(moved, expected, atol=1e-5)
    assert policy.look_ahead(tokens, pending) == pytest.approx(float(expected.norm()) / TYPICAL_CHANGE, rel=1e-4)


def written_out(weights: dict[str, Tensor], x: Tensor, pending: Tensor, light: bool) -> Tensor:
    """The predictor by its formulas."""

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(value: Tensor) -> Tensor:
        return (value - value.mean(-1, keepdim=True)) / (value.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()

    conditions = linear("action_proj.0", pending).relu().split(5)
    if light:
        x = norm(linear("input_proj.0", x)) * weights["input_proj.1.weight"] + weights["input_proj.1.bias"]
        x = linear("input_proj.3", x * torch.sigmoid(x))
    width = x.shape[1]
    for number in range(3):
        block, condition = f"blocks.{number}", conditions[number]

        def conditional(name: str, value: Tensor, block: str = block, condition: Tensor = condition) -> Tensor:
            affine = linear(f"{block}.{name}.cond_to_affine.0", condition).relu()
            plain = norm(value) * weights[f"{block}.{name}.norm.weight"] + weights[f"{block}.{name}.norm.bias"]
            return plain * (1.0 + affine[:width]) + affine[width:]

        queries, keys, values = linear(f"{block}.qkv_proj", x).split(width, dim=1)
        size, heads = width // 16, []
        for head in range(16):
            part = slice(head * size, (head + 1) * size)
            heads.append(torch.softmax(queries[:, part] @ keys[:, part].T / size**0.5, dim=1) @ values[:, part])
        x = conditional("ln1", x + linear(f"{block}.out_proj", torch.cat(heads, dim=1)))
        inner = linear(f"{block}.mlp.0", x)
        x = conditional("ln2", x + linear(f"{block}.mlp.2", inner * (1.0 + torch.erf(inner / 2**0.5)) / 2.0))
    return linear("out_proj", x) if light else x


def test_pending_actions_move_the_base_camera_only(release: Path, assets: Path, tmp_path: Path) -> None:
    policy = loaded(release, assets, predictor=predictor_file(tmp_path / "predictor.safetensors", False))
    plain = observed(policy)
    ahead = PolicyObservation(plain.images, plain.state, plain.instruction, np.ones(7))
    view = SessionCache(policy.spec.cache, Full(1)).view()
    now, then = (prefill_whole(policy, each, view) for each in (plain, ahead))
    assert now.seen is not None and torch.equal(now.seen, then.seen)
    first = now.keys[0] - then.keys[0]
    assert first[:, :4].abs().max() > 1e-3 and torch.equal(first[:, 4:], torch.zeros_like(first[:, 4:]))
    assert prefill_whole(loaded(release, assets), plain, view).seen is None


def without_statistics(release: Path, tmp_path: Path) -> Path | None:
    shutil.rmtree(release / "assets")
    return None


def with_two(release: Path, tmp_path: Path) -> Path | None:
    shutil.copytree(release / "assets" / "physical-intelligence", release / "assets" / "other")
    return None


def with_nan(release: Path, tmp_path: Path) -> Path | None:
    file = next(release.glob("assets/*/*/norm_stats.json"))
    file.write_text(file.read_text().replace("-0.9", "NaN"))
    return None


def without_actions(release: Path, tmp_path: Path) -> Path | None:
    next(release.glob("assets/*/*/norm_stats.json")).write_text('{"norm_stats": []}')
    return None


def pickled(release: Path, tmp_path: Path) -> Path | None:
    (tmp_path / "predictor.pth").write_bytes(pickle.dumps({"model_state_dict": {}}))
    return tmp_path / "predictor.pth"


def of_another_policy(release: Path, tmp_path: Path) -> Path | None:
    return predictor_file(tmp_path / "predictor.safetensors", False, tokens=96)


def of_another_network(release: Path, tmp_path: Path) -> Path | None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "predictor.safetensors")
    return tmp_path / "predictor.safetensors"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_statistics, r"has 0 files norm_stats\.json below assets/"),
        (with_two, r"has 2 files norm_stats\.json"),
        (with_nan, "percentiles of actions that are not finite"),
        (without_actions, r"has no norm_stats\.actions"),
        (pickled, "no safetensors file"),
        (of_another_policy, "reads tokens of width 96 and 6 actions, the policy has 64 and 6"),
        (of_another_network, "holds no observation predictor"),
    ],
)
def test_what_does_not_fit_is_refused(
    release: Path, assets: Path, tmp_path: Path, spoil: Callable[[Path, Path], Path | None], says: str
) -> None:
    predictor = spoil(release, tmp_path)
    with pytest.raises(CheckpointError, match=says):
        loaded(release, assets, predictor=predictor)
