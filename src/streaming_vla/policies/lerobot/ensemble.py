"""ACT's temporal ensemble (arXiv 2304.13705): every chunk that has a row for a step votes about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def ensembled(chunks: Sequence[Matrix], decay: float) -> Matrix:
    """Return the action of each step, [n, A], when one chunk [H, A] is made before each of n steps.

    The i-th oldest chunk that reaches a step has weight exp(-decay i).
    """
    actions = []
    for step in range(len(chunks)):
        said = np.array(
            [chunk[step - made] for made, chunk in enumerate(chunks[: step + 1]) if step - made < len(chunk)]
        )
        weight = np.exp(-decay * np.arange(len(said)))
        actions.append(weight @ said / weight.sum())
    return np.array(actions)
