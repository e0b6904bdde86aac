"""Writes what was trained as a checkpoint that lerobot and the suite load: LeRobot's files, and ours beside them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.flow_head.sidecar import SIDECAR, TENSORS, Sidecar, write_sidecar
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.load import FRESH_NAMES, WEIGHTS, weights_of
from streaming_vla.policies.lerobot.weights import compare
from streaming_vla.training.checkpoint import load_average
from streaming_vla.training.run_folder import CHECKPOINT, facts_of
from streaming_vla.training.vla.trainer import FRESH, VlaRun


def check_output(output: Path) -> None:
    """Raise CheckpointError where a folder holds anything but a checkpoint that was trained here."""
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / SIDECAR).is_file())):
        raise CheckpointError(f"'{output}' exists and is no checkpoint that was trained here: choose another --output")


def export(run: VlaRun, sidecar: Sidecar, output: Path) -> None:
    """Write the averaged weights of a run; what did not learn keeps its bytes.

    Raises:
        FileNotFoundError: there is no checkpoint in the run's folder.
        CheckpointError: see `check_output`.
    """
    check_output(output)
    start, partial = run.folder / "start", output.with_name(f".{output.name}.partial")
    average = {name.replace("/", "."): value for name, value in load_average(run.folder / CHECKPOINT).items()}
    own = {name: average.pop(name) for name in list(average) if name.startswith(f"{FRESH}.")}
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(start, partial, ignore=shutil.ignore_patterns(WEIGHTS))
    archive = weights_of(Folder(start))
    stored = compare(run.policy.network, archive, run.policy.names)  # type: ignore[arg-type]
    _write_weights(start / WEIGHTS, partial / WEIGHTS, {stored[name]: value for name, value in average.items()})
    if own:
        prefix = f"{FRESH}."
        save_file(
            {FRESH_NAMES.in_file(name.removeprefix(prefix)): value.contiguous() for name, value in own.items()},
            partial / TENSORS,
        )
    write_sidecar(partial, sidecar, facts_of(run.folder))
    shutil.rmtree(output, ignore_errors=True)
    partial.replace(output)


def _write_weights(source: Path, target: Path, learned: Mapping[str, Tensor]) -> None:
    """Write the tensors of a file with some of them replaced, each in the number format that it has there."""
    with safe_open(source, framework="pt") as opened:
        metadata = opened.metadata() or {"format": "pt"}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        for name, value in learned.items():
            tensors[name] = value.detach().cpu().to(tensors[name].dtype).contiguous()
        if not all(bool(torch.isfinite(tensors[name]).all()) for name in learned):
            raise CheckpointError(f"what was learned is too large for the number format of '{source}'")
        save_file(tensors, target, metadata=metadata)
