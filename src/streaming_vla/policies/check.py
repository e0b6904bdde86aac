"""Compares what a policy needs of a robot with the robot's parameters, before anything moves."""

from __future__ import annotations

from collections.abc import Sequence

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.layout import ActionLayout

SAME_PERIOD = 0.01  # relative; a file may have rounded it


def check_policy(
    spec: PolicySpec, cameras: Sequence[str], image_size: int, control_period_s: float, layout: ActionLayout
) -> list[str]:
    """Return a sentence for every parameter of a robot that does not fit a policy.

    Args:
        spec: of the policy.
        cameras: of the robot, in the order in which it sends their pictures.
        image_size: of these pictures, pixels.
        control_period_s: an action of the robot lasts so long, seconds.
        layout: of its actions.
    """
    who, found = f"policy {spec.name}", []
    if tuple(cameras) != spec.cameras:
        found.append(f"cameras are {_listed(cameras)}, {who} needs {_listed(spec.cameras)}, in that order")
    if image_size != spec.image_size:
        found.append(f"image_size is {image_size} pixels, {who} needs {spec.image_size}")
    period_s = spec.control_period_s
    if period_s is not None and abs(control_period_s - period_s) > SAME_PERIOD * period_s:
        found.append(
            f"control_period_s is {control_period_s:g}, an action of {who} lasts {period_s:g} s: its actions would be "
            f"played {'too fast' if control_period_s < period_s else 'too slowly'}"
        )
    if layout.names != spec.layout.names:
        found.append(f"action_names are {_listed(layout.names)}, {who} acts in {_listed(spec.layout.names)}")
    elif layout.absolute != spec.layout.absolute:
        wrong = [
            n for n, own, its in zip(layout.names, layout.absolute, spec.layout.absolute, strict=True) if own != its
        ]
        targets = _listed([name for name, its in zip(spec.layout.names, spec.layout.absolute, strict=True) if its])
        found.append(
            f"action_absolute is wrong for {_listed(wrong)}: targets of {who} are {targets}, the others are changes"
        )
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
