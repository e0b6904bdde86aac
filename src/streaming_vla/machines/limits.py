"""Limits of what the robot may be told: value, velocity and jump, per dimension; what is outside is clamped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming_vla.policies.layout import ActionLayout, Vector, check_counts


@dataclass(frozen=True)
class Limits:
    """Limits beside the layout's own low and high; an empty tuple sets none.

    Args:
        velocity: per dimension, action units per second: of the value itself where actions are changes
            (value / period), of its change where the dimension is absolute.
        jump: per dimension, action units: largest difference between successive commands.

    Raises:
        ValueError: an entry that is not above zero.
    """

    velocity: tuple[float, ...] = ()
    jump: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("velocity_limit", self.velocity), ("jump_limit", self.jump)):
            for value in values:
                if not value > 0.0:
                    raise ValueError(f"{name} has {value}: every entry must be above 0; give 1.0e6 for no limit")

    def check(self, layout: ActionLayout) -> None:
        """Check that the limits fit `layout` and that it can hold.

        Raises:
            ValueError: another number of values than dimensions, or a summed dimension that may not be 0.
        """
        lists = {"velocity_limit": self.velocity, "jump_limit": self.jump}
        check_counts({name: len(values) for name, values in lists.items() if values}, layout.names)
        for name, absolute, low, high in zip(layout.names, layout.absolute, layout.low, layout.high, strict=True):
            if not absolute and not low <= 0.0 <= high:
                raise ValueError(
                    f"action_low {low} to action_high {high} of '{name}' must include 0: "
                    "it is commanded when the robot holds"
                )

    def apply(
        self, layout: ActionLayout, values: Vector, previous: Vector, period_s: float
    ) -> tuple[Vector, list[str]]:
        """Return `values` [A] clamped, and what clamped them, as `limit_<which>.<dimension>`.

        Value and velocity come last: they hold even when `previous` was outside of limits that changed since.
        """
        boxes: list[tuple[str, Vector, Vector]] = []
        if self.jump:
            boxes.append(("jump", previous - self.jump, previous + self.jump))
        if self.velocity:
            reach = np.asarray(self.velocity) * period_s
            centre = np.where(layout.absolute, previous, 0.0)
            boxes.append(("velocity", centre - reach, centre + reach))
        boxes.append(("value", np.asarray(layout.low), np.asarray(layout.high)))
        hit: list[str] = []
        for which, low, high in boxes:
            clamped = np.clip(values, low, high)
            hit.extend(f"limit_{which}.{layout.names[index]}" for index in np.flatnonzero(clamped != values))
            values = clamped
        return values, hit
