"""The options of the inference node become a policy; what a model has no use for is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streaming_vla.engine.loading import load_model
from streaming_vla.engine.options import InferenceOptions, ModelOptions
from streaming_vla.options.option import OptionError
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.registry import PolicyError, model_files

ROOT = Path(__file__).parents[2]
SMOLVLA = ROOT / "test" / "policies" / "lerobot" / "golden" / "smolvla"
EXAMPLES = ROOT / "docs" / "examples"


def options(**values: Any) -> ModelOptions:
    return InferenceOptions(model=f"lerobot:{SMOLVLA / 'checkpoint'}", model_assets=str(SMOLVLA / "vlm"), **values)


def test_a_lerobot_checkpoint_is_loaded_as_the_options_say() -> None:
    plain, cameras = load_model(options()), load_model(options()).spec.cameras
    assert isinstance(plain, ChunkAsStream) and plain.spec.chunk and all(plain.spec.layout.absolute)
    told = load_model(
        options(
            model_cameras=(f"front=observation.images.{cameras[0]}",),
            model_denoise_steps=3,
            model_execution_horizon=4,
            model_action_absolute=False,
            model_dtype="bfloat16",
        )
    )
    assert told.spec.cameras == ("front",) and not any(told.spec.layout.absolute)
    assert (told.spec.denoise_steps, told.spec.execution_horizon) == (3, 4)
    assert "bfloat16" in str(told.spec.cache.dtype)
    assert model_files(options().model) == sorted((SMOLVLA / "checkpoint").glob("*.safetensors"))


def test_denoising_has_as_many_steps_as_the_checkpoint_says() -> None:
    import json

    stated = json.loads((SMOLVLA / "checkpoint" / "config.json").read_text(encoding="utf-8"))["num_steps"]
    assert load_model(options()).spec.denoise_steps == stated


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_device": "cuda:77"}, "model_device is 'cuda:77', this machine has"),
        ({"model_device": "tpu"}, "model_device is 'tpu', expected cpu, cuda or cuda:N"),
        ({"model_cameras": ("front=observation.images.none",)}, "model_cameras has front=observation.images.none, exp"),
        ({"model_execution_horizon": 999}, "trained_horizon 12 is below execution_horizon 999"),
        ({"saliency_model": "mine"}, "saliency_model is 'mine', model '.*' takes none"),
    ],
)
def test_what_does_not_fit_a_checkpoint_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_model(options(**changes))


@pytest.mark.parametrize("cameras", [("front",), ("front=",), ("=a",), ("front=a", "front=b"), ("front=a", "")])
def test_cameras_that_are_no_pairs_are_refused(cameras: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match=r"model_cameras is .*, expected camera=feature, each camera once"):
        ModelOptions(model_cameras=cameras)


@pytest.mark.parametrize(
    ("model", "changes", "sentence"),
    [
        (
            "compact_mt10",
            {"model_device": "cuda"},
            "model_device is set, model 'compact_mt10' has no use for it: it is",
        ),
        ("python:flow_policy:GoalPolicy", {"model_assets": "vlm"}, "model_assets is set, model 'python:.*' has no use"),
        ("compact_mt10", {"model_denoise_steps": 5}, "model_denoise_steps is set, .*: it gives one action per step"),
        (
            "python:flow_policy:GoalPolicy",
            {"model_denoise_steps": 5, "model_execution_horizon": 5},
            "model_denoise_steps and model_execution_horizon are set, model",
        ),
    ],
)
def test_what_a_model_has_no_use_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, model: str, changes: dict[str, Any], sentence: str
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.raises(PolicyError, match=sentence):
        load_model(ModelOptions(model=model, **changes))


def test_chunks_of_an_own_policy_are_as_long_as_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    model = "python:chunk_policy:GoalChunkPolicy"
    policy = load_model(ModelOptions(model=model, model_denoise_steps=5, model_execution_horizon=15))
    assert (policy.spec.denoise_steps, policy.spec.execution_horizon) == (5, 15)
    with pytest.raises(PolicyError, match=r"model 'python:.*': policy goal_chunks: trained_horizon 20 is below"):
        load_model(ModelOptions(model=model, model_execution_horizon=21))
    assert model_files(model) == []
