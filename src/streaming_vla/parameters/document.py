"""Writes config/streaming_vla.yaml from the tables: python -m streaming_vla.parameters.document."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from streaming_vla.parameters.sections import EVERY_NODE, KEY
from streaming_vla.parameters.shared import SHARED
from streaming_vla.parameters.spec import Parameter, Value
from streaming_vla.parameters.tables import NODES

_HEADER = """\
# Every parameter of streaming_vla with its default. Written by `python -m streaming_vla.parameters.document`.
#
# "live" can be changed while the node runs (ros2 param set); the others are read once at start.
# Section "/**" holds what several nodes share; "/**/observer" is node observer in any namespace.
# Use it with: streaming-vla up --params-file FILE, or ros2 launch ... params_file:=FILE
# Keep what you change and delete the rest. In ROS the later of two sections wins: keep "/**" in front, and put what is
# one robot's ("/left/executor") behind what is everybody's ("/**/executor"). "-p name:=value" is a part of
# the file's "/**"; where it has none, "-p" comes last and wins.
"""


def render() -> str:
    """Return the text of the parameter file."""
    shared = {parameter.name for parameter in SHARED}
    parts = [_HEADER, _section(EVERY_NODE, SHARED)]
    for node, parameters in NODES.items():
        parts.append(_section(f"/**/{node}", [parameter for parameter in parameters if parameter.name not in shared]))
    return "\n".join(parts)


def _section(name: str, parameters: Sequence[Parameter]) -> str:
    lines = [f"{name}:", f"  {KEY}:"]
    for parameter in parameters:
        live = ", live" if parameter.live else ""
        lines.append(f"    # {parameter.description} [{parameter.allowed}{live}]")
        lines.append(f"    {parameter.name}: {_yaml(parameter.default)}")
    return "\n".join(lines) + "\n"


def _yaml(value: Value) -> str:
    # JSON is YAML, except that YAML 1.1 wants a point in a float with an exponent
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml(element) for element in value) + "]"
    return json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write(render())
