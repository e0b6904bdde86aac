"""The limits of joints from a robot's description (URDF)."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from streaming_vla.bringup.new_robot.facts import Range

LARGEST_BYTES = 4 * 1024**2
LIMITED = ("revolute", "prismatic")


def joint_ranges(text: str) -> dict[str, Range]:
    """Return lower and upper limit of each joint that has them, rad or m; none of a text that is no plain URDF."""
    if len(text) > LARGEST_BYTES or "<!DOCTYPE" in text or "<!ENTITY" in text:  # may be made to grow without end
        return {}
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    found = {}
    for joint in root.iter("joint"):
        limit = joint.find("limit")
        if limit is None or joint.get("type") not in LIMITED:
            continue
        try:
            low, high = float(limit.get("lower", "0")), float(limit.get("upper", "0"))
        except ValueError:
            continue
        if math.isfinite(low) and math.isfinite(high) and low < high:
            found[str(joint.get("name"))] = (low, high)
    return found
