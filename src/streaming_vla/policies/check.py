"""Compares what a policy needs of a robot with the robot's parameters, before anything moves. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streaming_vla.policies.layout import ActionLayout

if TYPE_CHECKING:  # a robot's light nodes use this module, and the contract needs torch
    from streaming_vla.policies.contract import PolicySpec

SAME_PERIOD = 0.01  # relative; a file may have rounded it


def check_actions(
    names: Sequence[str],
    absolute: Sequence[bool],
    period_s: float | None,
    layout: ActionLayout,
    control_period_s: float,
    who: str = "the policy",
) -> list[str]:
    """Return a sentence for every parameter of a robot's actions that does not fit a policy.

    A dimension that is summed here and absolute there moves the robot far from where the policy sends it.

    Args:
        names: of the policy's actions.
        absolute: of the policy's actions.
        period_s: an action of the policy lasts so long, seconds; None: any.
        layout: of the robot's actions.
        control_period_s: an action of the robot lasts so long, seconds.
        who: what the policy is called.
    """
    found = []
    if period_s is not None and abs(control_period_s - period_s) > SAME_PERIOD * period_s:
        found.append(
            f"control_period_s is {control_period_s:g}, an action of {who} lasts {period_s:g} s: its actions would be "
            f"played {'too fast' if control_period_s < period_s else 'too slowly'}"
        )
    if tuple(names) != layout.names:
        found.append(f"action_names are {_listed(layout.names)}, {who} acts in {_listed(names)}")
    elif tuple(absolute) != layout.absolute:
        wrong = [name for name, own, its in zip(names, layout.absolute, absolute, strict=True) if own != its]
        targets = _listed([name for name, its in zip(names, absolute, strict=True) if its])
        found.append(
            f"action_absolute is wrong for {_listed(wrong)}: targets of {who} are {targets}, the others are changes"
        )
    return found


def check_policy(
    spec: PolicySpec,
    cameras: Sequence[str],
    image_size: int,
    image_fit: str,
    pad_value: int,
    control_period_s: float,
    layout: ActionLayout,
    state_joints: Sequence[str],
) -> list[str]:
    """Return a sentence for every parameter of a robot that does not fit a policy.

    Args:
        spec: of the policy.
        cameras: of the robot, in the order in which it sends their pictures.
        image_size: of these pictures, pixels.
        image_fit, pad_value: how they became square (see PolicySpec).
        control_period_s: an action of the robot lasts so long, seconds.
        layout: of its actions.
        state_joints: whose positions are its state; empty: not told.
    """
    who, found = f"policy {spec.name}", []
    if tuple(cameras) != spec.cameras:
        found.append(f"cameras are {_listed(cameras)}, {who} needs {_listed(spec.cameras)}, in that order")
    if image_size != spec.image_size:
        found.append(f"image_size is {image_size} pixels, {who} needs {spec.image_size}")
    if image_fit != spec.image_fit:
        found.append(f"image_fit is {image_fit}, {who} needs {spec.image_fit}")
    elif image_fit != "crop" and pad_value != spec.pad_value:
        found.append(f"image_pad_value is {pad_value}, {who} needs {spec.pad_value}")
    if state_joints and len(state_joints) != spec.state_size:
        found.append(
            f"robot_state_joints are {_listed(state_joints)}, the state of {who} has {spec.state_size} numbers"
        )
    needed = spec.layout
    found += check_actions(needed.names, needed.absolute, spec.control_period_s, layout, control_period_s, who)
    return found + _check_limits(needed, layout, who)


def _check_limits(needed: ActionLayout, layout: ActionLayout, who: str) -> list[str]:
    """Return a sentence for every dimension of which no action of the policy is allowed: the units are others."""
    if needed.names != layout.names:
        return []
    return [
        f"action_low to action_high of '{name}' is {low:g} to {high:g}, {who} acts from {least:g} to {most:g}: none of "
        "its actions would be played as it is, are the units the same?"
        for name, low, high, least, most in zip(
            needed.names, layout.low, layout.high, needed.low, needed.high, strict=True
        )
        if most < low or high < least
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
