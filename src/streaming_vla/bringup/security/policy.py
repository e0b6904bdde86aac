"""Writes the policy of a robot for SROS2: an enclave for each process; what is not named in it is denied."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from streaming_vla.bringup.security.endpoints import Ends
from streaming_vla.parameters.sections import full_namespace

VERSION = "0.2.0"  # of SROS2's format


def render(ends: Iterable[Ends], namespace: str, prefix: str) -> str:
    """Return the policy, XML of SROS2.

    Args:
        ends: of every process.
        namespace: of the robot, in which relative names lie.
        prefix: of the enclaves, see `enclave`.
    """
    policy = ElementTree.Element("policy", version=VERSION)
    enclaves = ElementTree.SubElement(policy, "enclaves")
    for each in ends:
        holder = ElementTree.SubElement(enclaves, "enclave", path=enclave(prefix, each.name))
        profiles = ElementTree.SubElement(holder, "profiles")
        profile = ElementTree.SubElement(profiles, "profile", ns=full_namespace(namespace), node=each.node)
        for kind, right, names in (
            ("topic", "publish", each.publishes),
            ("topic", "subscribe", each.subscribes),
            ("service", "reply", each.serves),
            ("service", "request", each.calls),
            ("action", "execute", each.executes),
            ("action", "call", each.orders),
        ):
            if names:
                rule = ElementTree.SubElement(profile, f"{kind}s", {right: "ALLOW"})
                for name in dict.fromkeys(names):
                    ElementTree.SubElement(rule, kind).text = name
    ElementTree.indent(policy)
    return ElementTree.tostring(policy, encoding="unicode", xml_declaration=True) + "\n"


def enclave(prefix: str, name: str) -> str:
    """Return the enclave of a process.

    Args:
        prefix: of all enclaves of the robot; the robot's namespace unless the operator has chosen another.
        name: of the node.
    """
    return f"{full_namespace(prefix).rstrip('/')}/{name}"
