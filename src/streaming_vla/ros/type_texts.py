"""Texts of ROS message definitions with everything that they refer to, from the installed packages."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

SEPARATOR = "=" * 80
_FIELD = re.compile(r"^\s*([a-zA-Z][\w/]*)(?:<=\d+)?(?:\[[<=\d]*\])?\s+[a-zA-Z]\w*")
BUILT_IN = {
    "bool", "byte", "char", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64", "string", "wstring",
}  # fmt: skip


@cache
def full_text(kind: str) -> str:
    """Return the definition of `kind` (package/msg/Name) and of all types in it, as rosbag2 stores it (ros2msg).

    Raises:
        LookupError: a definition is not installed; the message names it.
    """
    texts: dict[str, str] = {}
    waiting = [kind]
    while waiting:
        name = waiting.pop()
        if name not in texts:
            texts[name] = _text(name)
            waiting.extend(_used(texts[name], name.split("/")[0]))
    parts = [texts.pop(kind)]
    for name in sorted(texts):
        package, _, word = name.split("/")
        parts.append(f"{SEPARATOR}\nMSG: {package}/{word}\n{texts[name]}")
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _text(kind: str) -> str:
    package, folder, name = kind.split("/")
    try:
        path = Path(get_package_share_directory(package)) / folder / f"{name}.msg"
        return path.read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError) as error:
        raise LookupError(
            f"the definition of {kind} is not installed: source the workspace that has {package}"
        ) from error


def _used(text: str, package: str) -> list[str]:
    """Return the types that a definition refers to, by their full names."""
    found = []
    for line in text.splitlines():
        match = _FIELD.match(line.split("#")[0])
        if match is None or "=" in line.split("#")[0].split("<=")[-1] or match[1] in BUILT_IN:
            continue
        words = match[1].split("/")
        if words == ["Header"]:
            words = ["std_msgs", "Header"]
        found.append(f"{words[0] if len(words) > 1 else package}/msg/{words[-1]}")
    return found
