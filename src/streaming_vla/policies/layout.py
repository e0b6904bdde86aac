"""What the numbers of an action mean: names, limits, and which of them are summed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ActionLayout:
    """The layout of an action vector of A dimensions.

    Args:
        names: name of each dimension.
        absolute: True where the value itself is the flow's state (a gripper effort), False where actions
            are changes and the flow's state is their sum (a hand displacement).
        low: smallest allowed value of each dimension.
        high: largest allowed value of each dimension.
        initial: the flow's state before any action; for absolute dimensions the value the robot starts with.

    Raises:
        ValueError: the lengths differ or a lower limit is not below its upper one.
    """

    names: tuple[str, ...]
    absolute: tuple[bool, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    initial: tuple[float, ...]

    def __post_init__(self) -> None:
        fields = ("absolute", "low", "high", "initial")
        check_counts({f"action_{field}": len(getattr(self, field)) for field in fields}, self.names)
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not low < high:
                raise ValueError(f"action_low of '{name}' is {low}, expected less than its action_high {high}")

    @property
    def size(self) -> int:
        """Number of dimensions A."""
        return len(self.names)

    def check(self, values: npt.ArrayLike) -> Vector:
        """Return `values` as a float64 vector [A].

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        vector = np.asarray(values, dtype=np.float64)
        if vector.shape != (self.size,):
            raise ValueError(f"action has shape {vector.shape}, expected ({self.size},) for {', '.join(self.names)}")
        if not all(map(math.isfinite, vector.tolist())):
            bad = [name for name, value in zip(self.names, vector, strict=True) if not math.isfinite(value)]
            raise ValueError(f"action is not finite in {', '.join(bad)}")
        return vector

    def clip(self, values: Vector) -> Vector:
        """Return `values` [A] within the limits."""
        return np.clip(values, self.low, self.high)

    def start(self, previous: Vector | None = None) -> Vector:
        """Return the flow's state at hand-over, [A]: sums are zero, absolute dimensions keep `previous`."""
        start = np.asarray(self.initial if previous is None else previous, dtype=np.float64)
        return np.where(self.absolute, start, 0.0)

    def advance(self, position: Vector, action: Vector) -> Vector:
        """Return the flow's state after `action`, [A]: summed, or replaced in absolute dimensions."""
        return np.where(self.absolute, action, position + action)


def check_counts(counts: Mapping[str, int], names: Sequence[str]) -> None:
    """Check that each list has a value for each dimension.

    Args:
        counts: values of a list, by its name.
        names: of the dimensions.

    Raises:
        ValueError: names every list that has not.
    """
    if wrong := [f"{name} has {count} values" for name, count in counts.items() if count != len(names)]:
        raise ValueError(f"{', '.join(wrong)}, expected one for each of {', '.join(names)}")
