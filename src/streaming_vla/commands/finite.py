"""Numbers that come from a robot are looked at before anything is made of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LARGEST = float(np.finfo(np.float32).max)  # the policy and its training take float32


def finite(values: npt.NDArray[np.float64], what: str) -> npt.NDArray[np.float64]:
    """Return `values` [N]; ValueError when one of them is no finite number of 32 bits."""
    bad = np.flatnonzero(~(np.abs(values) <= LARGEST))
    if len(bad):
        raise ValueError(
            f"{what} is {values[bad[0]]:g} at place {bad[0]}, expected finite numbers: see to the robot's driver"
        )
    return values
