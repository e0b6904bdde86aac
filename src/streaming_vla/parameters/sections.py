"""Which nodes a section of a ROS parameter file is for, and which of two sections wins: as rcl has it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

KEY = "ros__parameters"
EVERY_NODE = "/**"
WILDCARDS = {"**": "(/[^/]+)*", "*": "/[^/]+"}  # any number of names, one name


def last_name(section: str) -> str:
    """Return the node that a section names: a name, or EVERY_NODE."""
    name = section.rsplit("/", 1)[-1]
    return EVERY_NODE if name in WILDCARDS else name


def is_for(section: str, node: str) -> bool:
    """Tell whether the node of this fully qualified name gets a section; without "/" in front it begins at the root."""
    names = section.strip("/").split("/")
    pattern = "".join(WILDCARDS.get(name, "/" + re.escape(name)) for name in names)
    return re.fullmatch(pattern, node) is not None


def rank(section: str) -> int:
    """Return how closely a section names its nodes: 0 for every node, 1 for one in many namespaces, 2 for one node."""
    if last_name(section) == EVERY_NODE:
        return 0
    return 1 if any(name in WILDCARDS for name in section.split("/")) else 2


def qualified(namespace: str, node: str) -> str:
    """Return the fully qualified name of a node."""
    return f"{full_namespace(namespace).rstrip('/')}/{node}"


def full_namespace(namespace: str) -> str:
    """Return a namespace from the root on, "/" for the root."""
    return "/" + namespace.strip("/")


def write_settings(path: Path, node: str, settings: Mapping[str, object]) -> None:
    """Write a parameter file that wins over every section of a file that is given before it.

    ROS lets the later of two sections win. `-p` is one for every node: where the file has "/**" it becomes a part of
    that, and a node's section wins. One of the node's full name comes last: `load.read` refuses a file in which a wider
    section stands behind it.

    Args:
        node: fully qualified.
    """
    path.write_text(json.dumps({node: {KEY: dict(settings)}}, ensure_ascii=False), encoding="utf-8")
