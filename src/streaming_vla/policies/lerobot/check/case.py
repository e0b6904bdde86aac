"""A case: an observation, and every tensor that LeRobot has computed of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streaming_vla.policies.contract import PolicyObservation
from streaming_vla.policies.lerobot.act_policy import ACTPolicy
from streaming_vla.policies.lerobot.check.act import computed_by_act
from streaming_vla.policies.lerobot.check.flow import computed_by_flow
from streaming_vla.policies.lerobot.check.formula import with_weights
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.load import load_lerobot
from streaming_vla.policies.lerobot.options import LoadOptions
from streaming_vla.policies.lerobot.tensor_archive import DTYPES, TensorArchive
from streaming_vla.policies.lerobot.vla_policy import VlaPolicy

GIVEN = ("image.", "state", "noise", "rtc.previous", "ensemble.chunks")
"""Tensors that a case gives; `state` alone, state_normalised and others are computed."""


@dataclass(frozen=True)
class Case:
    """What a case's two files hold.

    Args:
        policy: type of the policy.
        facts: of the JSON file.
        tensors: of the safetensors file.
        tolerance: of other code than LeRobot's.
    """

    policy: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tolerance: float

    @classmethod
    def read(cls, stem: Path) -> Case:
        """Read the files `stem`.json and `stem`.safetensors; CheckpointError where they are missing or damaged."""
        stem = stem.with_suffix("") if stem.suffix in (".json", ".safetensors") else stem
        folder = Folder(stem.parent, "case folder")
        facts = folder.json(f"{stem.name}.json", "give the path of a case without its suffixes")
        path = folder.file(f"{stem.name}.safetensors", "give the path of a case without its suffixes")
        archive = TensorArchive(path, f"case '{stem}'")
        tensors = {name: archive.tensor(name, DTYPES[stored.dtype]) for name, stored in archive.tensors.items()}
        tolerance = facts.get("tolerance")
        suggested = tolerance.get("suggested_for_other_code") if isinstance(tolerance, dict) else None
        return cls(facts["policy"], facts, tensors, suggested or (5e-5 if facts["policy"] == "smolvla" else 1e-5))

    def observation(self, cameras: tuple[str, ...]) -> PolicyObservation:
        """Return what the policy sees; `cameras`: names in its order."""
        by_name = {feature.rsplit(".", 1)[-1]: camera for camera, feature in self.facts["cameras"].items()}
        images: Any = [self.tensors[f"image.{by_name[name]}"].numpy() for name in cameras]  # of several sizes
        return PolicyObservation(
            images, self.tensors["state"].numpy().astype(np.float32), self.facts["instruction"] or ""
        )


def check_case(folder: Path, case: Case) -> dict[str, float]:
    """Return the error of every computed tensor of a case: max |got - want| / max(1, max |want|); another shape: inf.

    Args:
        folder: with checkpoint/ and vlm/; weights.json in the place of weights makes them by its formula.
    """
    with _checkpoint(folder) as checkpoint:
        assets = folder / "vlm"
        policy = load_lerobot(checkpoint, LoadOptions(assets=assets if assets.is_dir() else None))
        observation = case.observation(policy.spec.cameras)
        with torch.inference_mode():
            if isinstance(policy, ACTPolicy):
                computed = computed_by_act(policy, observation, case.facts, case.tensors)
            else:
                assert isinstance(policy, VlaPolicy), "no case is of a policy that was trained here"
                computed = computed_by_flow(policy, observation, case.facts, case.tensors)
    return {name: error(got, case.tensors[name], _compared(name, case.tensors)) for name, got in computed.items()}


def error(got: Tensor, want: Tensor, columns: Tensor | None = None) -> float:
    """Return max |got - want| / max(1, max |want|), inf for another shape.

    Args:
        columns: [P], True where the columns [..., P, d] mean something; None: all do.
    """
    if got.shape != want.shape:
        return float("inf")
    got, want = got.double(), want.double()
    if columns is not None:
        got, want = got[..., columns, :], want[..., columns, :]
    return float((got - want).abs().max() / max(1.0, float(want.abs().max())))


def _compared(name: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    return tensors["prefix_pad_mask"][0] if name in ("prefix_keys", "prefix_values") else None


@contextmanager
def _checkpoint(folder: Path) -> Iterator[Path]:
    checkpoint, listing = folder / "checkpoint", folder / "weights.json"
    if (checkpoint / "model.safetensors").is_file() or not listing.is_file():
        yield checkpoint
        return
    with tempfile.TemporaryDirectory() as made:
        yield with_weights(checkpoint, listing, Path(made) / "checkpoint")
