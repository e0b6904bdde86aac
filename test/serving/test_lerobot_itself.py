"""Checkpoints that lerobot itself computes in an environment of its own.

lerobot is not installed here: the child program speaks to a stand-in with its names (fake_lerobot.py), so what is
tested is the way, not lerobot.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Served, request_of
from fake_lerobot import write_lerobot
from safetensors.torch import load_file, save_file

from streaming_vla.engine.options import ModelOptions
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.serving.lerobot.policy import load_by_lerobot

Serve = Callable[..., Served]
GOLDEN = Path(__file__).parents[1] / "policies" / "lerobot" / "golden" / "act" / "checkpoint"
STATE = np.arange(6.0)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ChunkAsStream]:
    """Return a function that loads a checkpoint, its configuration changed, by the stand-in."""
    monkeypatch.setenv("PYTHONPATH", str(write_lerobot(tmp_path)))
    folder = tmp_path / "my_policy"
    shutil.copytree(GOLDEN, folder)

    def start(tensors: tuple[str, ...] = ("weight",), options: ModelOptions | None = None, **changes: Any) -> Any:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "type": "xvla", **changes}))
        save_file({name: torch.zeros(2) for name in tensors}, folder / "model.safetensors")
        options = (options or ModelOptions()).changed(model=f"lerobot:{folder}")
        return load_by_lerobot(options, Path(sys.executable))

    return start


def test_any_type_is_served(load: Callable[..., ChunkAsStream], serve: Serve) -> None:
    policy = load()
    spec = policy.spec
    assert (spec.name, spec.cameras, spec.image_size, spec.image_fit) == (
        "my_policy",
        ("top", "wrist"),
        75,
        "letterbox",
    )
    assert (spec.trained_horizon, spec.execution_horizon, spec.state_size, spec.layout.size) == (12, 12, 6, 6)
    assert spec.layout.low[0] < spec.layout.high[0] < 1e3, "limits are those of the checkpoint's statistics"
    client = serve(policy).client()
    request = request_of(spec, STATE / 10.0)
    request["observation/images/top"] = np.full((48, 64, 3), 51, np.uint8)
    rows = client.actions(request)
    expected = np.clip([0.2, 0.5, 1.5], spec.layout.low[:3], spec.layout.high[:3])  # mean, width of wrist, sum of state
    assert rows[0, :3] == pytest.approx(expected, abs=1e-5)
    assert rows[:, 3].tolist() == list(np.clip(np.arange(12.0), spec.layout.low[3], spec.layout.high[3]))
    answer = client.say({**request, "prompt": "fail"})
    assert "it failed in two lines" in answer and "\n" not in answer
    assert client.actions(request).shape == (12, 6), "it goes on"
    assert "has ended" in client.say({**request, "prompt": "die"})
    assert "has ended" in client.say(request)


def test_a_policy_of_several_observations_gives_the_actions_that_it_queues(load: Callable[..., ChunkAsStream]) -> None:
    assert load(n_obs_steps=2, n_action_steps=8).spec.trained_horizon == 8


def test_relative_actions_that_lerobot_makes_targets_of_are_limited_by_the_state(
    load: Callable[..., ChunkAsStream],
) -> None:
    names = ["a", "b", "c", "d", "e", "grip"]
    plain = load().spec.layout
    layout = load(use_relative_actions=True, action_feature_names=names, relative_exclude_joints=["grip"]).spec.layout
    state = load_file(GOLDEN / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    wide = 0.1 * (state["observation.state.max"] - state["observation.state.min"])
    assert layout.high[:5] == pytest.approx((state["observation.state.max"] + wide).tolist()[:5])
    assert layout.high[5] == plain.high[5] != pytest.approx(float((state["observation.state.max"] + wide)[5]))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tensors": ("other",)}, "lacks 2 tensors, tied first"),
        ({"options": ModelOptions(model_dtype="bfloat16")}, "model_dtype cannot be set with --python"),
        ({"input_features": {"observation.state": {"type": "STATE", "shape": [6]}}}, "without pictures"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    load: Callable[..., ChunkAsStream], changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(CheckpointError, match=expected) as refused:
        load(**changes)
    assert "\n" not in str(refused.value)


def test_an_environment_without_lerobot_is_said(tmp_path: Path) -> None:
    options = ModelOptions(model=f"lerobot:{tmp_path}")
    with pytest.raises(CheckpointError, match="ModuleNotFoundError: No module named 'lerobot'"):
        load_by_lerobot(options, Path(sys.executable))
    with pytest.raises(CheckpointError, match="cannot be started"):
        load_by_lerobot(options, tmp_path / "python")
    with pytest.raises(CheckpointError, match="it is for lerobot:/folder"):
        load_by_lerobot(ModelOptions(), Path(sys.executable))
