"""An observation on its way through the steps of a processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """What a processor's step takes and gives.

    Args:
        pictures: [1, 3, h, w] of each camera that is there, from 0 to 1 before any normalisation, by feature.
        state: [S], as the robot says it at first.
        text: the instruction.
        raw_state: [S], `state` before any step: what relative actions are relative to.
        tokens: of the text, without padding; empty before its step, and where a policy reads no text.
    """

    pictures: Mapping[str, Tensor]
    state: npt.NDArray[np.float32]
    text: str
    raw_state: npt.NDArray[np.float32]
    tokens: tuple[int, ...] = ()
