"""What a node declares to ROS is what its options say, and so is what the shipped parameter file has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from own_context import own_context
from rclpy.context import Context

from streaming_vla.options.option import Options
from streaming_vla.parameters.nodes import NODES, SECTIONS
from streaming_vla.parameters.sections import EVERY_NODE, KEY
from streaming_vla.ros.declare import Declared

pytestmark = pytest.mark.ros
CONFIG = Path(__file__).parents[2] / "config" / "streaming_vla.yaml"


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with own_context() as own:
        yield own


@pytest.mark.parametrize(("name", "kind"), NODES.items())
def test_ros_the_file_and_the_machine_agree(context: Context, name: str, kind: type[Options]) -> None:
    node: Any = rclpy.create_node(name, context=context, allow_undeclared_parameters=True)
    declared = Declared(node, kind, lambda _: None)
    assert declared.options == kind()
    sections = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    for option in kind.declared.values():
        value, descriptor = node.get_parameter(option.name).value, node.describe_parameter(option.name)
        plain = value if isinstance(value, bool | int | float | str) else tuple(value)
        section = EVERY_NODE if option.name in SECTIONS[EVERY_NODE].declared else f"/**/{name}"
        written = sections[section][KEY][option.name]
        assert plain == getattr(kind(), option.name) == (tuple(written) if isinstance(written, list) else written)
        assert descriptor.read_only is not option.live
        assert descriptor.description.startswith(option.description)
        assert descriptor.additional_constraints == option.allowed
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        bounded = option.low is not None and option.high is not None and not option.is_list
        assert [(each.from_value, each.to_value) for each in ranges] == [(option.low, option.high)] * bounded
        assert [each.step for each in descriptor.integer_range] == [1] * (bounded and option.element_type is int)
    node.destroy_node()
