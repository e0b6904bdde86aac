"""What a training run goes on from: its weights, their moving average and the moments of AdamW, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
NOW, AVERAGE = "now.", "average."  # what the names of either begin with


def follow(average: Mapping[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Move the average of a model's weights on; it follows faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        average[name].lerp_(value, 1 - decay)


def save_checkpoint(
    path: Path,
    modules: nn.Module,
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    step: int,
) -> None:
    """Write a checkpoint after `step` steps in place of the one before, which stays whole until then.

    Args:
        parameters: those of `optimizer`, in the order in which they are found again.
    """
    tensors = {f"{AVERAGE}{name}": value for name, value in average.items()}
    tensors |= {f"{NOW}{name}": value for name, value in modules.state_dict().items()}
    tensors["step"] = torch.tensor(step)
    tensors |= {
        f"moment.{index}.{name}": optimizer.state[parameter][name]
        for index, parameter in enumerate(parameters)
        for name in MOMENTS
        if name in optimizer.state[parameter]
    }
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, path)


def load_checkpoint(
    path: Path,
    modules: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
) -> int:
    """Put back what `save_checkpoint` wrote; return how many steps were taken, 0 when there is no checkpoint."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    modules.load_state_dict(_named(tensors, NOW))
    for name, value in _named(tensors, AVERAGE).items():
        average[name].copy_(value)
    for index, parameter in enumerate(parameters):
        state = _named(tensors, f"moment.{index}.")
        if state:
            # the number of the step stays on the CPU
            moments = {name: value.to(parameter.device) for name, value in state.items() if name != "step"}
            optimizer.state[parameter] = moments | {"step": state["step"]}
    return int(tensors["step"])


def load_average(path: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a checkpoint.

    Raises:
        FileNotFoundError: there is none.
    """
    return _named(load_file(path), AVERAGE)


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
