"""Gates on disk: safetensors, which hold nothing but numbers, with the gate's shape. Needs `safetensors`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from kv_cache.gate import Gate, GateConfig
from kv_cache.heads import HeadGate, HeadGateConfig
from kv_cache.tensor_file import TensorFormat


class GateFileError(ValueError):
    """A file cannot be used as a gate; the message says which, why and what was expected."""


FORMAT = TensorFormat(
    kind="gate",
    name="kv_cache.gate.1",
    maximum_bytes=256 * 1024**2,
    origin="train a gate with 'streaming-vla train gate'",
    error=GateFileError,
)


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


def save_gate(path: Path | str, gate: Gate, threshold: float, training: Mapping[str, object]) -> None:
    """Write a gate, its calibrated threshold and how it was trained (plain values)."""
    _save(Path(path), FORMAT, gate, training, threshold=repr(float(threshold)))


def load_gate(path: Path | str) -> LoadedGate:
    """Load a gate and check all of it.

    Raises:
        GateFileError: missing, too large, no safetensors, another format, or tensors that do not fit.
    """
    with FORMAT.open(Path(path)) as file:
        config = GateConfig.from_json(file.metadata["architecture"])
        threshold = float(file.metadata["threshold"])
        if not 0.0 <= threshold < math.inf:
            raise ValueError(f"its threshold is {threshold}, it must be 0 or more")
        training = _training(file.metadata)
        gate = file.build(lambda: Gate(config))
    return LoadedGate(gate.eval().requires_grad_(False), threshold, training)


HEADS_FORMAT = TensorFormat(
    kind="head gate",
    name="kv_cache.head_gate.1",
    maximum_bytes=FORMAT.maximum_bytes,
    origin="train one with 'streaming-vla train gate --model hf:/folder'",
    error=GateFileError,
)


def save_head_gate(path: Path | str, gate: HeadGate, training: Mapping[str, object]) -> None:
    """Write a gate for every head and how it was trained (plain values)."""
    _save(Path(path), HEADS_FORMAT, gate, training)


def load_head_gate(path: Path | str) -> HeadGate:
    """Load a gate for every head and check all of it.

    Raises:
        GateFileError: missing, too large, no safetensors, another format, or tensors that do not fit.
    """
    with HEADS_FORMAT.open(Path(path)) as file:
        config = HeadGateConfig(**json.loads(file.metadata["architecture"]))
        _training(file.metadata)
        return file.build(lambda: HeadGate(config)).eval().requires_grad_(False)


def _save(path: Path, form: TensorFormat, gate: Gate | HeadGate, training: Mapping[str, object], **more: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().float().contiguous() for name, value in gate.state_dict().items()}
    about = {"format": form.name, "architecture": gate.config.to_json(), "training": json.dumps(dict(training))}
    save_file(tensors, path, about | more)


def _training(metadata: Mapping[str, str]) -> dict[str, object]:
    training = json.loads(metadata["training"])
    if not isinstance(training, dict):
        raise ValueError(f"what it says of its training is a {type(training).__name__}, no table of names")
    return training
