"""Checkpoints: what is written is read back, and every misfit gives one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.language import UNKNOWN
from streaming_vla.policy.compact.model import CompactModel
from streaming_vla.policy.loading import FORMAT, CheckpointError, load_policy, save_policy
from streaming_vla.policy.models import find_model

CONFIG = CompactConfig(words=(UNKNOWN, "open"), width=48, layers=2, image_size=32)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "toy.safetensors"
    save_policy(path, CONFIG, CompactModel(CONFIG).state_dict(), {"seed": 0})
    return path


def rewrite(path: Path, drop: str = "", metadata: dict[str, str] | None = None, **changed: torch.Tensor) -> None:
    tensors = load_file(path) | changed
    tensors.pop(drop, None)
    save_file(
        tensors, path, {"format": FORMAT.name, "architecture": CONFIG.to_json()} if metadata is None else metadata
    )


def test_round_trip(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    assert policy.spec.name == "toy"
    assert policy.spec.cameras == CONFIG.cameras
    assert policy.spec.tokens_per_observation == CONFIG.tokens_per_observation


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_policy(tmp_path / "no.safetensors")


def test_garbage(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(path)


def test_foreign_format(checkpoint: Path) -> None:
    rewrite(checkpoint, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"has format 'pt', expected 'streaming_vla.compact.2'; train a"):
        load_policy(checkpoint)


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ({}, "its metadata has no 'architecture'"),
        ({"architecture": "{"}, "cannot be read"),
        ({"architecture": "[]"}, "does not fit this version: .* not an object"),
        ({"architecture": '{"width": 3}'}, "does not fit this version: .*image_size"),
        ({"architecture": replace(CONFIG, mlp_ratio=10**6).to_json()}, "has shape .*, expected .*48000000"),
    ],
)
def test_foreign_architecture(checkpoint: Path, architecture: dict[str, str], sentence: str) -> None:
    rewrite(checkpoint, metadata={"format": FORMAT.name, **architecture})
    with pytest.raises(CheckpointError, match=sentence):
        load_policy(checkpoint)


def test_missing_tensor(checkpoint: Path) -> None:
    rewrite(checkpoint, drop="flow.head.1.weight")
    with pytest.raises(CheckpointError, match=r"flow\.head\.1\.weight"):
        load_policy(checkpoint)


def test_wrong_shape(checkpoint: Path) -> None:
    rewrite(checkpoint, **{"flow.head.1.bias": torch.zeros(7)})
    with pytest.raises(CheckpointError, match=r"flow\.head\.1\.bias.*\(7,\), expected \(4,\)"):
        load_policy(checkpoint)


def test_not_finite(checkpoint: Path) -> None:
    rewrite(checkpoint, **{"flow.head.1.bias": torch.full((4,), float("nan"))})
    with pytest.raises(CheckpointError, match="not finite"):
        load_policy(checkpoint)


def test_find_model(checkpoint: Path) -> None:
    assert find_model(str(checkpoint)) == checkpoint
    with pytest.raises(CheckpointError, match="unknown"):
        find_model("no_such_model")
    with pytest.raises(CheckpointError, match="does not exist"):
        find_model("/nowhere/x.safetensors")
