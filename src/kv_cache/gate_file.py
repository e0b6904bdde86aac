"""Gates on disk: safetensors, which hold nothing but numbers, with the gate's shape. Needs `safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kv_cache.gate import Gate, GateConfig

FORMAT = "kv_cache.gate.1"
MAXIMUM_BYTES = 256 * 1024**2


class GateFileError(ValueError):
    """A file cannot be used as a gate; the message says which, why and what was expected."""


@dataclass(frozen=True)
class LoadedGate:
    """A gate from a file.

    Args:
        gate: for inference.
        threshold: calibrated on validation scores.
        training: how it was trained.
    """

    gate: Gate
    threshold: float
    training: Mapping[str, object]


def save_gate(path: Path, gate: Gate, threshold: float, training: Mapping[str, object]) -> None:
    """Write a gate, its calibrated threshold and how it was trained (plain values)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().float().contiguous() for name, value in gate.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "architecture": gate.config.to_json(),
        "threshold": repr(float(threshold)),
        "training": json.dumps(dict(training)),
    }
    save_file(tensors, path, metadata)


def load_gate(path: Path) -> LoadedGate:
    """Load a gate and check all of it.

    Raises:
        GateFileError: missing, too large, no safetensors, another format, or tensors that do not fit.
    """
    if not path.is_file():
        raise GateFileError(f"gate '{path}' does not exist; expected a .safetensors file of a gate")
    if path.stat().st_size > MAXIMUM_BYTES:
        raise GateFileError(f"gate '{path}' has {path.stat().st_size} bytes, expected at most {MAXIMUM_BYTES}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise GateFileError(
                    f"gate '{path}' has format {metadata.get('format', 'none')!r}, expected {FORMAT!r}: it is not a "
                    "gate of this version; train one with 'streaming-vla train gate'"
                )
            config = GateConfig.from_json(metadata["architecture"])
            threshold = float(metadata["threshold"])
            training = json.loads(metadata["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        with torch.device("meta"):
            expected = {name: value.shape for name, value in Gate(config).state_dict().items()}
        if {name: value.shape for name, value in tensors.items()} != expected:
            raise GateFileError(f"gate '{path}' has tensors of another shape than its architecture; it is damaged")
        if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
            raise GateFileError(f"gate '{path}' has numbers that are not finite; it is damaged")
        gate = Gate(config)
        gate.load_state_dict(tensors)
    except GateFileError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise GateFileError(f"gate '{path}' cannot be read ({error}); expected {FORMAT} safetensors") from error
    return LoadedGate(gate.eval().requires_grad_(False), threshold, training)
