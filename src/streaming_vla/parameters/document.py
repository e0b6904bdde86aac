"""Writes config/streaming_vla.yaml from the options: python -m streaming_vla.parameters.document."""

from __future__ import annotations

import json
import sys

from streaming_vla.options.option import Option, Value
from streaming_vla.parameters.nodes import SECTIONS
from streaming_vla.parameters.sections import EVERY_NODE, KEY

_HEADER = """\
# Every parameter of streaming_vla with its default. Written by `python -m streaming_vla.parameters.document`.
#
# "live" can be changed while the node runs (ros2 param set), "live between episodes" while no episode does; the others
# are read once at start.
# Section "/**" holds what several nodes share; "/**/observer" is node observer in any namespace.
# Use it with: streaming-vla up --params-file FILE, or ros2 launch ... params_file:=FILE
# Keep what you change and delete the rest. In ROS the later of two sections wins: keep "/**" in front, and put what is
# one robot's ("/left/executor") behind what is everybody's ("/**/executor"). "-p name:=value" is a part of
# the file's "/**"; where it has none, "-p" comes last and wins.
"""


def render() -> str:
    """Return the text of the parameter file."""
    shared = SECTIONS[EVERY_NODE].declared
    parts = [_HEADER]
    for section, kind in SECTIONS.items():
        whole = section == EVERY_NODE
        lines = [f"{section if whole else f'/**/{section}'}:", f"  {KEY}:"]
        for name, option in kind.declared.items():
            if whole or name not in shared:
                lines += [f"    # {comment(option)}", f"    {name}: {as_yaml(option.default)}"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def comment(option: Option, more: str = "") -> str:
    """Return the comment above an option in a file: what it is, and in brackets what is allowed and `more`."""
    when = ", live between episodes" if option.guards else ", live" if option.live else ""
    return f"{option.description} [{option.allowed}{when}{more}]"


def as_yaml(value: Value) -> str:
    """Return a value as YAML."""
    # JSON is YAML, except that YAML 1.1 wants a point in a float with an exponent
    if isinstance(value, tuple):
        return "[" + ", ".join(as_yaml(element) for element in value) + "]"
    return json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write(render())
