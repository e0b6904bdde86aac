"""The moments of an AdamW optimiser as tensors of a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def pack_moments(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """Return the moments by "moment.INDEX.NAME"."""
    return {
        f"moment.{index}.{name}": optimizer.state[parameter][name]
        for index, parameter in enumerate(parameters)
        for name in MOMENTS
        if name in optimizer.state[parameter]
    }


def unpack_moments(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    tensors: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Put back what `pack_moments` took; the number of the step stays on the CPU."""
    for index, parameter in enumerate(parameters):
        prefix = f"moment.{index}."
        state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if state:
            moments = {name: value.to(device) for name, value in state.items() if name != "step"}
            optimizer.state[parameter] = moments | {"step": state["step"]}
