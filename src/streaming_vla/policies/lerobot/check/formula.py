"""Weights by a formula: a case of a large network needs no large file."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
SHIFTS = (16, 13, 16)  # murmur3's finaliser
LOW_BITS = np.uint64(0xFFFFFFFF)


def with_weights(checkpoint: Path, listing: Path, into: Path) -> Path:
    """Copy a checkpoint and give it weights; returns `into`.

    Args:
        listing: JSON whose "tensors" hold the shape of each name.
    """
    into.mkdir()
    for file in checkpoint.iterdir():
        shutil.copyfile(file, into / file.name)
    shapes = {name: each["shape"] for name, each in json.loads(listing.read_text(encoding="utf-8"))["tensors"].items()}
    save_file(
        {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}, into / "model.safetensors"
    )
    return into


def weight(name: str, shape: list[int]) -> npt.NDArray[np.float32]:
    """Return a tensor by its name: a hash of name and index, spread as the tensor's role asks."""
    mixed = (
        np.arange(math.prod(shape), dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))
    ) & LOW_BITS
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        mixed ^= mixed >> np.uint64(shift)
        mixed = (mixed * np.uint64(multiplier)) & LOW_BITS
    centre, spread = _centre_and_spread(name, shape)
    values = centre + spread * (mixed.astype(np.float64) / 2.0**31 - 1.0)
    return values.astype(np.float32).reshape(shape)


def _centre_and_spread(name: str, shape: list[int]) -> tuple[float, float]:
    if len(shape) == 1:
        if name.endswith("running_var"):
            return 1.0, 0.2
        return (1.0 if name.endswith("weight") else 0.0), 0.1
    if "_embed" in name or "pos_enc" in name:
        return 0.0, 1.0
    gain = 1.5 if name.endswith("in_proj_weight") else 1.0
    return 0.0, gain * math.sqrt(3.0 / math.prod(shape[1:]))
