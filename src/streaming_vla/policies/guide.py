"""Guidance of a chunk's denoising towards actions that are already planned (real-time chunking, arXiv 2506.07339).

Free of torch, because the state machines that make a guide are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Guide:
    """What a new chunk is pulled towards while it is denoised.

    Args:
        target: [H, A], planned actions Y, in action units; rows of weight 0 count nothing.
        weight: [H], W in [0, 1].
        beta: largest gain.
        exact: through the true Jacobian of the denoised chunk (costs a backward pass); otherwise the identity.

    Raises:
        ValueError: the shapes do not fit, or a weight or beta is out of range.
    """

    target: Matrix
    weight: npt.NDArray[np.float64]
    beta: float = 5.0
    exact: bool = True

    def __post_init__(self) -> None:
        if self.target.ndim != 2 or self.weight.shape != self.target.shape[:1]:
            raise ValueError(
                f"guide: target has shape {self.target.shape} and weight {self.weight.shape}, expected [H, A] and [H]"
            )
        if not np.isfinite(self.target).all() or not ((self.weight >= 0.0) & (self.weight <= 1.0)).all():
            raise ValueError("guide: a target is not finite or a weight is outside of 0 to 1")
        if not self.beta >= 0.0:
            raise ValueError(f"guide: beta is {self.beta}, expected at least 0")

    def gain(self, time: float) -> float:
        """Return min(beta, (1 - t) / (t r^2)) with r^2 = (1 - t)^2 / (t^2 + (1 - t)^2), flow time t in [0, 1]."""
        rest = 1.0 - time
        if time <= 0.0 or rest <= 0.0:
            return self.beta if time <= 0.0 else 0.0
        return min(self.beta, (time * time + rest * rest) / (time * rest))

    def correction(self, denoised: Matrix, time: float) -> Matrix:
        """Return what is added to the velocity with the identity for the Jacobian, [H, A].

        Args:
            denoised: [H, A], the chunk that the velocity v at noisy actions A leads to, A + (1 - t) v.
            time: of the flow, in [0, 1].
        """
        return self.gain(time) * (self.target - denoised) * self.weight[:, None]
