"""Whether a robot's parameters fit the policy whose context is heard."""

from __future__ import annotations

from streaming_vla_interfaces import msg

from streaming_vla.options.shared import ActionOptions
from streaming_vla.options.texts import cut
from streaming_vla.policies.check import check_actions


def policy_mismatch(options: ActionOptions, context: msg.Context) -> str:
    """Return what of a robot's actions does not fit the policy which made `context`; empty when all does."""
    period_s = context.control_period_s or None
    names, absolute = context.action_names, context.action_absolute
    return cut("; ".join(check_actions(names, absolute, period_s, options.layout, options.control_period_s)))
