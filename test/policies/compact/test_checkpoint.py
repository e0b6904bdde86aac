"""Checkpoints: what is written is read back, and every misfit gives one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from streaming_vla.policies.compact.checkpoint import FORMAT, load_policy, save_policy
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.models import find_model

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
    with pytest.raises(CheckpointError, match=r"has format 'pt', expected 'streaming_vla.compact.4'; train a"):
        load_policy(checkpoint)


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ({}, "its metadata has no 'architecture'"),
        ({"architecture": "{"}, "cannot be read"),
        ({"architecture": "[]"}, "does not fit this version: .* not an object"),
        ({"architecture": '{"width": 3}'}, "does not fit this version: .*image_size"),
        ({"architecture": "[" * 100_000}, "cannot be read"),
        ({"architecture": replace(CONFIG, mlp_ratio=64).to_json()}, "has shape .*, expected .*3072"),
    ],
)
def test_foreign_architecture(checkpoint: Path, architecture: dict[str, str], sentence: str) -> None:
    rewrite(checkpoint, metadata={"format": FORMAT.name, **architecture})
    with pytest.raises(CheckpointError, match=sentence):
        load_policy(checkpoint)


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        ({"layers": 4000}, "layers is 4000, expected a whole number from 1 to 128"),
        ({"heads": 0}, "heads is 0, expected a whole number from 1 to 256"),
        ({"kv_heads": 0}, "kv_heads is 0"),
        ({"width": 48.0}, r"width is 48\.0, expected a whole number"),
        ({"layers": [2]}, r"layers is \(2,\), expected a whole number"),
        ({"trained_horizon": True}, "trained_horizon is True"),
        ({"image_size": 10**9}, "image_size is 1000000000, expected a whole number from 8 to 1024"),
        ({"channels": [24, 48]}, r"channels is \(24, 48\), expected 4 whole numbers from 8 to 8192"),
        ({"channels": [24, 48, 96, 100]}, "channels are .*, each must divide by 8"),
        ({"keypoints": 16}, "keypoints is 16, expected 2 whole numbers"),
        ({"cameras": ["eye"] * 1000}, "cameras are 1000, expected 1 to 16 texts"),
        ({"words": []}, "words are 0, expected 1 to 65536 texts"),
        ({"action_low": [0.0]}, "action_low has 1 values"),
        ({"rope_base": float("nan")}, "rope_base is nan, it must be above 1"),
    ],
    ids=str,
)
def test_an_architecture_out_of_range_is_refused_before_anything_is_built(
    checkpoint: Path, lie: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "streaming_vla.policies.compact.checkpoint.CompactModel", lambda config: pytest.fail("it was built")
    )
    architecture = json.dumps(json.loads(CONFIG.to_json()) | lie)
    rewrite(checkpoint, metadata={"format": FORMAT.name, "architecture": architecture})
    with pytest.raises(CheckpointError, match=f"does not fit this version: .*{sentence}"):
        load_policy(checkpoint)


@pytest.mark.parametrize("impossible", [lambda: 1 // 0, lambda: torch.empty(2**62, device="meta")])
def test_what_a_reader_cannot_compute_is_refused(checkpoint: Path, impossible: Callable[[], object]) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"), FORMAT.open(checkpoint):
        impossible()


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
