"""A chunk is denoised in slices, optionally guided towards actions that are planned already."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Pull:
    """What a normalised, padded chunk is pulled towards (real-time chunking, arXiv 2506.07339).

    Args:
        target: [H, D]; padded columns are 0, and pulled there as LeRobot does.
        weight: [H, 1].
        gain: of the flow's time, 0 at noise and 1 at actions (see Guide).
    """

    target: Tensor
    weight: Tensor
    gain: Callable[[float], float]


def denoise(velocity: Velocity, noise: Tensor, steps: int, pull: Pull | None) -> Generator[None, None, Tensor]:
    """Return the chunk [H, D] after `steps` Euler steps x - v(x, t) / steps; yields behind each.

    Args:
        velocity: v(x, t), noise minus actions, at time t, which is 1 at noise and 0 at actions (LeRobot's).
        noise: [H, D].
        pull: v gets what the guide adds, with the identity for the Jacobian of the denoised chunk x - t v.
    """
    chunk = noise
    for step in range(steps):
        time = 1.0 - step / steps
        moved = velocity(chunk, time)
        if pull is not None:
            error = (pull.target - (chunk - time * moved)) * pull.weight
            moved = moved - pull.gain(1.0 - time) * error
        chunk = chunk - moved / steps
        yield
    return chunk


def padded(values: Tensor, width: int) -> Tensor:
    """Return values [..., n] with zeros behind them, [..., width]."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))
