"""Predictors on disk: what is written is read back, and only by the policy that it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from streaming_vla.policies.compact.checkpoint import load_policy, save_policy
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.language import UNKNOWN
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.errors import CheckpointError
from streaming_vla.saliency.loading import (
    FORMAT,
    encoder_hash,
    load_predictor,
    load_with_predictor,
    save_predictor,
    sizes_for,
)

torch.set_num_threads(1)
CONFIG = CompactConfig(words=(UNKNOWN, "open"), width=48, layers=2, image_size=32)


def saved(folder: Path, name: str, seed: int) -> CompactPolicy:
    """Write a policy of random weights and load it."""
    torch.manual_seed(seed)
    save_policy(folder / f"{name}.safetensors", CONFIG, CompactModel(CONFIG).state_dict(), {})
    return load_policy(folder / f"{name}.safetensors")


@pytest.fixture
def owner(tmp_path: Path) -> CompactPolicy:
    """A policy in tmp_path/own.safetensors, with a predictor of the name that is found by itself."""
    policy = saved(tmp_path, "own", 0)
    sizes = sizes_for(policy, width=16)
    predictor = sizes.make()
    torch.nn.init.normal_(predictor.head.weight)
    predictor.scale.fill_(2.0)
    save_predictor(tmp_path / "own_saliency.safetensors", predictor, sizes, policy, {"seed": 0})
    return policy


def test_a_predictor_is_found_by_the_name_of_its_policy(owner: CompactPolicy, tmp_path: Path) -> None:
    found = load_with_predictor(str(tmp_path / "own.safetensors"), "auto").predictor
    assert found is not None
    again = load_predictor(tmp_path / "own_saliency.safetensors", owner)
    tokens, actions = torch.randn(10, 48), torch.randn(4)
    assert torch.equal(found(tokens, actions), again(tokens, actions))
    assert float(found.saliency(tokens, actions)) == pytest.approx(float(found(tokens, actions).norm()) / 2.0)


def test_none_is_taken_where_none_is_wanted_or_there(owner: CompactPolicy, tmp_path: Path) -> None:
    assert load_with_predictor(str(tmp_path / "own.safetensors"), "").predictor is None
    saved(tmp_path, "alone", 0)
    assert load_with_predictor(str(tmp_path / "alone.safetensors"), "auto").predictor is None
    with pytest.raises(CheckpointError, match="does not exist"):
        load_with_predictor(str(tmp_path / "alone.safetensors"), str(tmp_path / "missing.safetensors"))


def test_the_predictor_of_other_weights_is_refused_in_one_sentence(owner: CompactPolicy, tmp_path: Path) -> None:
    other = saved(tmp_path, "other", 1)
    assert encoder_hash(other.base_encoder) != encoder_hash(owner.base_encoder)
    with pytest.raises(CheckpointError, match="belongs to a policy own with other weights than other has") as refusal:
        load_predictor(tmp_path / "own_saliency.safetensors", other)
    assert "\n" not in str(refusal.value) and "train saliency" in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors, about: about.update(format="x"), "has format 'x'"),
        (lambda tensors, about: about.pop("sizes"), "its metadata has no 'sizes'"),
        (
            lambda tensors, about: about.update(sizes='{"tokens": 10, "features": 48, "actions": 4, "width": -1}'),
            "width",
        ),
        (
            lambda tensors, about: about.update(sizes='{"tokens": 9, "features": 48, "actions": 4, "width": 16}'),
            "needs",
        ),
        (
            lambda tensors, about: tensors.update(place=torch.zeros(10, 17)),
            r"tensor 'place' has shape \(10, 17\), expected \(10, 16\)",
        ),
        (lambda tensors, about: tensors.update(scale=torch.tensor(float("nan"))), "not finite"),
    ],
)
def test_what_is_damaged_is_refused(owner: CompactPolicy, tmp_path: Path, change, sentence: str) -> None:  # type: ignore[no-untyped-def]
    from safetensors import safe_open

    path = tmp_path / "own_saliency.safetensors"
    with safe_open(path, framework="pt") as file:
        about = dict(file.metadata())
    assert about["format"] == FORMAT.name
    tensors = load_file(path)
    change(tensors, about)
    save_file(tensors, path, about)
    with pytest.raises(CheckpointError, match=sentence):
        load_predictor(path, owner)
