"""The action layout that a node's parameters describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streaming_vla_interfaces.msg import Context

from streaming_vla.policies.layout import ActionLayout


def action_layout(values: Mapping[str, Any]) -> ActionLayout:
    """Return the layout of the `action_*` parameters.

    Raises:
        ValueError: their lengths differ, or a lower limit is not below its upper one.
    """
    return ActionLayout(
        names=values["action_names"],
        absolute=values["action_absolute"],
        low=values["action_low"],
        high=values["action_high"],
        initial=values["action_initial"],
    )


def foreign_layout(layout: ActionLayout, context: Context) -> str:
    """Return what differs between `layout` and that of the policy which made `context`; empty when nothing does.

    A dimension that is summed here and absolute there moves the robot far from where the policy sends it.
    """
    names, absolute = tuple(context.action_names), tuple(context.action_absolute)
    if (names, absolute) == (layout.names, layout.absolute):
        return ""
    return (
        f"the policy acts in {_described(names, absolute)}, the parameters say "
        f"{_described(layout.names, layout.absolute)}: set action_names and action_absolute to the policy's"
    )


def _described(names: tuple[str, ...], absolute: tuple[bool, ...]) -> str:
    marked = [f"{name} (absolute)" if is_absolute else name for name, is_absolute in zip(names, absolute, strict=False)]
    return ", ".join(marked) or "no dimension"
