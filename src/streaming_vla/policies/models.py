"""Finds the file of a model by its name: shipped models, or a path."""

from __future__ import annotations

import contextlib
from pathlib import Path

from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.shipped import shipped_folders

SUFFIX = ".safetensors"
AUTO = "auto"


def shipped_models() -> dict[str, Path]:
    """Return the files of the shipped models by their names."""
    shipped: dict[str, Path] = {}
    for folder in shipped_folders("models"):
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            shipped.setdefault(file.stem, file)
    return shipped


def find_model(name: str) -> Path:
    """Return the file of the model `name`: a path to a .safetensors file, or the name of a shipped model.

    Raises:
        CheckpointError: there is no such model; the message lists the shipped ones.
    """
    if name.endswith(SUFFIX) or "/" in name:
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise CheckpointError(f"model '{name}' does not exist: expected the path of a {SUFFIX} file")
    shipped = shipped_models()
    if name not in shipped:
        raise CheckpointError(
            f"model '{name}' is unknown: choose one of {', '.join(shipped) or 'none'}, or give a path"
        )
    return shipped[name]


def find_companion(model: str, part: str) -> Path | None:
    """Return the file that belongs to `model` by its name, which ends in `_part`; None when there is none."""
    with contextlib.suppress(CheckpointError):
        return find_model(f"{model.removesuffix(SUFFIX)}_{part}{SUFFIX if model.endswith(SUFFIX) else ''}")
    return None


def find_part(name: str, model: str, part: str) -> Path | None:
    """Return the file of a part of `model`; AUTO: the one of the model's name (find_companion), empty: none.

    Raises:
        CheckpointError: a file is named and not there.
    """
    if name == AUTO:
        return find_companion(model, part)
    return find_model(name) if name else None
