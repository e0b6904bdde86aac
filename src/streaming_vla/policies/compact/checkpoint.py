"""Checkpoints of the compact policy: half-precision safetensors with everything that is needed to use them.

safetensors because it holds nothing but numbers: loading a checkpoint of a stranger runs none of their code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from kv_cache.tensor_file import TensorFormat
from streaming_vla.policies.compact.config import CompactConfig
from streaming_vla.policies.compact.model import CompactModel
from streaming_vla.policies.compact.policy import CompactPolicy
from streaming_vla.policies.errors import CheckpointError

NORMALISERS = ("state_mean", "state_scale", "pending_scale")
FORMAT = TensorFormat(
    kind="checkpoint",
    name="streaming_vla.compact.4",
    maximum_bytes=512 * 1024**2,
    origin="train a compact policy of this version with 'streaming-vla train policy'",
    error=CheckpointError,
)


def save_policy(
    path: Path, config: CompactConfig, weights: Mapping[str, Tensor], training: Mapping[str, object]
) -> None:
    """Write a checkpoint in half precision.

    Args:
        weights: the state of a CompactModel of `config`.
        training: how it was trained, for the metadata.
    """
    tensors = {name: value.half().contiguous() for name, value in weights.items()}
    # they keep their precision: they are tiny
    tensors |= {name: weights[name].float().contiguous() for name in NORMALISERS}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors, path, {"format": FORMAT.name, "architecture": config.to_json(), "training": json.dumps(dict(training))}
    )


def load_policy(path: Path) -> CompactPolicy:
    """Load a checkpoint as a policy; CheckpointError as of `load_model`."""
    return CompactPolicy(load_model(path), path.stem)


def load_model(path: Path) -> CompactModel:
    """Load the network of a checkpoint and check all of it.

    Raises:
        CheckpointError: missing, too large, no safetensors, another format, or tensors that do not fit.
    """
    with FORMAT.open(path) as file:
        config = CompactConfig.from_json(file.metadata["architecture"])
        return file.build(lambda: CompactModel(config))


def facts_in(path: Path) -> dict[str, object]:
    """Return what a checkpoint says of its training; CheckpointError as of `load_model`."""
    with FORMAT.open(path) as file:
        facts: dict[str, object] = json.loads(file.metadata["training"])
    return facts
