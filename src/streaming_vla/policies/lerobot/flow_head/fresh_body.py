"""What tells the expert where the robot is now: eyes may be old, a robot's own state is always fresh."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

STATE_FREQUENCIES = (4.0, 16.0)  # of sines and cosines of the normalised state
AGE_FREQUENCIES = 6


class FreshBody(nn.Module):
    """Makes of the robot's newest state and the picture's age what is added to the expert's one token.

    Its last layer begins as zero: at first the expert does what it did without.

    Args:
        state: numbers of the state S.
        actions: dimensions A of an action.
        width: of the expert's tokens.
    """

    def __init__(self, state: int, actions: int, width: int) -> None:
        super().__init__()
        features = state * (1 + 2 * len(STATE_FREQUENCIES)) + actions + 2 * AGE_FREQUENCIES
        self.inner = nn.Linear(features, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, state: Tensor, lacking: Tensor, age: Tensor) -> Tensor:
        """Return [..., width].

        Args:
            state: [..., S], normalised as the checkpoint does.
            lacking: [..., A], what it does not show yet (see FlowUnits).
            age: [...], of the picture in actions, as a share of the horizon.
        """
        frequencies = torch.tensor(STATE_FREQUENCIES, device=state.device)
        of_state = (state.unsqueeze(-1) * frequencies).flatten(-2)
        turns = 2.0 ** torch.arange(AGE_FREQUENCIES, device=age.device) * math.pi
        of_age = age.unsqueeze(-1) * turns
        features = (state, of_state.sin(), of_state.cos(), lacking, of_age.sin(), of_age.cos())
        added: Tensor = self.outer(functional.silu(self.inner(torch.cat(features, dim=-1))))
        return added
