"""Augmentation of a training batch: shifts, colours, blanked cameras and forgotten history."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from streaming_vla.training.plan import Augment, Source


def augment_pictures(pictures: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Return pictures [B, T, cameras, S, S, 3] uint8 as disturbed [B, T, cameras, 3, S, S] in [-1, 1]."""
    batch, length, cameras, size = pictures.shape[:4]
    out = pictures.permute(0, 1, 2, 5, 3, 4).float().div_(127.5).sub_(1.0)
    shift = options.shift
    padded = functional.pad(out.flatten(0, 2), (shift,) * 4, mode="replicate").view(
        batch, length, cameras, 3, size + 2 * shift, size + 2 * shift
    )
    moves = torch.randint(0, 2 * shift + 1, (batch, cameras, 2), generator=generator, device=generator.device)
    for row in range(batch):
        for camera in range(cameras):
            down, right = moves[row, camera].tolist()
            out[row, :, camera] = padded[row, :, camera, :, down : down + size, right : right + size]
    uniform = torch.rand((batch, 1, cameras, 5, 1, 1), generator=generator, device=generator.device) * 2 - 1
    contrast = 1 + options.colour * uniform[:, :, :, 0:1]
    gain = 1 + 0.3 * options.colour * uniform[:, :, :, 1:4]
    brightness = options.colour * uniform[:, :, :, 4:5]
    out.mul_(contrast * gain).add_(brightness).clamp_(-1.0, 1.0)
    chance = torch.rand((batch, 1, cameras), generator=generator, device=generator.device)
    blank = chance < torch.tensor(options.blank, device=chance.device)
    return out.masked_fill_(blank.view(batch, 1, cameras, 1, 1, 1), -1.0)


def disturbed_state(state: Tensor, scale: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Return states [..., state_size] with noise; `scale` [state_size] is their own deviation."""
    noise = torch.randn(state.shape, generator=generator, device=generator.device)
    return state + options.state_noise * scale * noise


def history_mask(present: Tensor, source: Source, generator: torch.Generator) -> Tensor:
    """Return which observations each one sees, [B, T, T] bool: itself and a number of those before it.

    Args:
        present: [B, T], False for observations that do not exist: nobody but they see them.
    """
    batch, length = present.shape
    index = torch.arange(length, device=present.device)
    age = index.unsqueeze(1) - index.unsqueeze(0)  # of the column as the row sees it
    depth = torch.randint(0, length, (batch, length, 1), generator=generator, device=generator.device)
    if source.whole_history:
        depth = torch.full_like(depth, length)
    depth = depth * (torch.rand((batch, 1, 1), generator=generator, device=generator.device) >= source.forget)
    seen = (age >= 0) & (age <= depth) & present.unsqueeze(1)
    return seen | torch.eye(length, dtype=torch.bool, device=present.device)
