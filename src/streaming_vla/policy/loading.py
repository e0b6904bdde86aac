"""Checkpoints of the compact policy: half-precision safetensors with everything that is needed to use them.

safetensors because it holds nothing but numbers: loading a checkpoint of a stranger runs none of their code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from streaming_vla.policy.compact.config import CompactConfig
from streaming_vla.policy.compact.model import CompactModel
from streaming_vla.policy.compact.policy import CompactPolicy

FORMAT = "streaming_vla.compact.2"
MAXIMUM_BYTES = 512 * 1024**2


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which, why and what was expected."""


def save_policy(
    path: Path, config: CompactConfig, weights: Mapping[str, Tensor], training: Mapping[str, object]
) -> None:
    """Write a checkpoint in half precision.

    Args:
        weights: the state of a CompactModel of `config`.
        training: how it was trained, for the metadata.
    """
    tensors = {name: value.half().contiguous() for name, value in weights.items()}
    # the normaliser keeps its precision: it is tiny
    tensors |= {name: weights[name].float().contiguous() for name in ("state_mean", "state_scale")}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors, path, {"format": FORMAT, "architecture": config.to_json(), "training": json.dumps(dict(training))}
    )


def load_policy(path: Path) -> CompactPolicy:
    """Load a checkpoint as a policy; CheckpointError as of `load_model`."""
    return CompactPolicy(load_model(path), path.stem)


def load_model(path: Path) -> CompactModel:
    """Load the network of a checkpoint and check all of it.

    Raises:
        CheckpointError: missing, too large, no safetensors, another format, or tensors that do not fit.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint '{path}' does not exist; expected a .safetensors file of a compact policy")
    if path.stat().st_size > MAXIMUM_BYTES:
        raise CheckpointError(f"checkpoint '{path}' has {path.stat().st_size} bytes, expected at most {MAXIMUM_BYTES}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"checkpoint '{path}' has format {metadata.get('format', 'none')!r}, expected {FORMAT!r}: "
                    "it is not a compact policy of this version; train one with 'streaming-vla train policy'"
                )
            config = CompactConfig.from_json(metadata["architecture"])
            _check_size(path, config)
            model = CompactModel(config)
            _load(path, model, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no iterator)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be read ({error}); expected {FORMAT} safetensors") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"checkpoint '{path}' does not fit this version: {error}") from error
    return model


def _check_size(path: Path, config: CompactConfig) -> None:
    """Refuse an architecture that is absurdly large before its memory is taken."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in CompactModel(config).parameters())
    if 2 * count > 2 * MAXIMUM_BYTES:
        raise CheckpointError(f"checkpoint '{path}' names an architecture of {count} parameters, more than is allowed")


def _load(path: Path, model: CompactModel, tensors: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    different = sorted(set(expected) ^ set(tensors))
    if different:
        raise CheckpointError(f"checkpoint '{path}' misses or adds tensors, first '{different[0]}' of {len(different)}")
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"checkpoint '{path}': tensor '{name}' has shape {tuple(value.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"checkpoint '{path}': tensor '{name}' is not finite; the file is damaged")
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
