"""Training targets of action flow matching on action sums.

From StreamingVLA (arXiv 2603.28565) and streaming flow policy: the flow's state is the sum of the actions since
its start, its velocity the next action, stabilised towards the demonstration by sigma and k.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streaming_vla.training.plan import Flow


@dataclass(frozen=True)
class FlowTargets:
    """For N observations and D draws.

    position [N, D, A], known [N, D] bool (False: the position is hidden), time [N, D], target [N, D, A].
    """

    position: Tensor
    known: Tensor
    time: Tensor
    target: Tensor


def draw_targets(
    actions: Tensor, previous: Tensor, start: Tensor, absolute: Tensor, options: Flow, generator: torch.Generator
) -> FlowTargets:
    """Draw times and noise and return what the expert has to say there.

    Args:
        actions: [N, H, A], the window that follows each observation.
        previous: [N, A], the action before it.
        start: [N, A], the action sum before it; absolute dimensions are not read.
        absolute: [A] bool.
    """
    count, horizon, size = actions.shape
    shape = (count, options.draws)
    known = torch.rand(shape, generator=generator, device=generator.device) >= options.hidden
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    time = 0.001 + 0.999 * torch.where(known, uniform ** (1 / 1.5), uniform)  # Beta(1.5, 1)
    step = (time * horizon).floor().clamp(max=horizon - 1)
    part = time * horizon - step
    part = torch.where(
        torch.rand(shape, generator=generator, device=generator.device) < options.on_grid, torch.zeros_like(part), part
    )
    time = (step + part) / horizon
    step = step.long()
    pick = step.unsqueeze(-1).expand(*shape, size)
    sums = start.unsqueeze(1) + actions.cumsum(dim=1) - actions
    here = actions.gather(1, pick)
    before = torch.cat((previous.unsqueeze(1), actions), dim=1).gather(1, pick)
    noise = (
        options.sigma
        * torch.exp(-options.k * time).unsqueeze(-1)
        * torch.randn((*shape, size), generator=generator, device=generator.device)
    )
    position = torch.where(absolute, before, sums.gather(1, pick) + part.unsqueeze(-1) * here) + noise
    # who does not see the noise cannot undo it
    target = torch.where(absolute | ~known.unsqueeze(-1), here, here - options.k / horizon * noise)
    return FlowTargets(position, known, time, target)
