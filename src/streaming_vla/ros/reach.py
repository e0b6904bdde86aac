"""Whether other machines reach the nodes that are started: only this one does, unless the operator has chosen."""

from __future__ import annotations

from collections.abc import MutableMapping

from streaming_vla.ros.transport import OLD_RANGE, PROFILES, RANGE, THIS_MACHINE, TRANSPORTS, this_machine_only

SECURITY, STRATEGY, ENFORCED = "ROS_SECURITY_ENABLE", "ROS_SECURITY_STRATEGY", "Enforce"
CHOICES = (RANGE, OLD_RANGE, "ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER", TRANSPORTS, *PROFILES, "CYCLONEDDS_URI")
GUIDE = "docs/how-to/secure.md"


def secured(environment: MutableMapping[str, str]) -> bool:
    """Return whether ROS is told to use DDS security."""
    return environment.get(SECURITY) == "true"


def local_unless_chosen(environment: MutableMapping[str, str]) -> str:
    """Keep ROS on this machine where the environment says nothing of its reach; return what the operator must know.

    Args:
        environment: of the nodes; gets the range of this machine when nothing in it is a choice.
    """
    choice = next((name for name in CHOICES if environment.get(name)), "")
    if not choice:
        environment[RANGE] = THIS_MACHINE
        return (
            f"Only this machine reaches these nodes, for {RANGE} is not set: nodes on other machines need it to be "
            f"SUBNET on both ({GUIDE})."
        )
    if this_machine_only(environment):
        return ""
    if not secured(environment):
        return (
            f"Whoever reaches these nodes commands the robot: {choice} is set and {SECURITY} is not 'true' ({GUIDE})."
        )
    if environment.get(STRATEGY) != ENFORCED:
        return f"A node without keys runs open to everybody: {SECURITY} is 'true', but {STRATEGY} is not '{ENFORCED}'."
    return ""
