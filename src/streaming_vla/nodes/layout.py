"""The action layout that a node's parameters describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streaming_vla.policy.layout import ActionLayout


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
