"""Declares a node's parameters from its table and refuses, with a reason, what is not in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from streaming_vla.parameters.load import ROS_PREFIXES, unknown
from streaming_vla.parameters.shared import SHARED
from streaming_vla.parameters.spec import Parameter, Value, as_written, check, convert
from streaming_vla.parameters.tables import table


class StartError(RuntimeError):
    """The node cannot start; the message is one sentence for the operator."""


def declare(node: Node, name: str, update: Callable[[Mapping[str, Value]], None]) -> dict[str, Value]:
    """Declare the table `name` on `node` and return the values, kept current as parameters are set.

    Args:
        node: whose parameters they are; values from files and the command line are taken and checked.
        name: of the table.
        update: called with every value when one is about to change; a ValueError refuses the change.

    Raises:
        StartError: a parameter that does not exist, or a value that is not allowed.
    """
    known = table(name)
    given = _given(node, name, known)
    values: dict[str, Value] = {}
    for parameter in known.values():
        try:
            values[parameter.name] = convert(parameter, given.get(parameter.name, parameter.default))
        except ValueError as error:
            raise StartError(f"node '{name}': {error}") from error
        value = values[parameter.name]
        node.declare_parameter(
            parameter.name,
            list(value) if isinstance(value, tuple) else value,
            _descriptor(parameter),
            ignore_override=True,
        )

    def before_set(changes: list[RosParameter]) -> list[RosParameter]:
        return [
            RosParameter(change.name, value=as_written(known[change.name], change.value))
            if change.name in known
            else change
            for change in changes
        ]

    def on_set(changes: list[RosParameter]) -> SetParametersResult:
        changed = {change.name: _plain(change.value) for change in changes if change.name in known}
        reasons = [
            unknown(change.name, known)
            for change in changes
            if change.name not in known and not change.name.startswith(ROS_PREFIXES)
        ]
        reasons += [reason for key, value in changed.items() if (reason := check(known[key], value)) is not None]
        if reasons:
            return SetParametersResult(successful=False, reason="; ".join(reasons))
        candidate = {**values, **{key: convert(known[key], value) for key, value in changed.items()}}
        try:
            update(candidate)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        values.update(candidate)
        return SetParametersResult(successful=True)

    node.add_pre_set_parameters_callback(before_set)
    node.add_on_set_parameters_callback(on_set)
    return values


def _given(node: Node, name: str, known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return what files and the command line set, as ROS has parsed it."""
    # rclpy offers no public way to see an override that is not declared
    overrides: dict[str, RosParameter] = node._parameter_overrides
    shared = {parameter.name for parameter in SHARED}  # section /** reaches nodes that do not use all of it
    for key in overrides:
        if key not in known and key not in shared and not key.startswith(ROS_PREFIXES):
            raise StartError(f"node '{name}': {unknown(key, known)}")
    return {key: _plain(override.value) for key, override in overrides.items() if key in known}


def _plain(value: Any) -> Any:
    """Return arrays as lists, so that a refusal shows them as they were written."""
    return value if isinstance(value, bool | int | float | str) or value is None else list(value)


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    unit = f" [{parameter.unit}]" if parameter.unit else ""
    descriptor = ParameterDescriptor(
        name=parameter.name,
        description=parameter.description + unit,
        additional_constraints=parameter.allowed,
        read_only=not parameter.live,
    )
    if parameter.low is not None and parameter.high is not None and not parameter.is_list:
        if parameter.element_type is int:
            descriptor.integer_range = [IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high))]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=parameter.low, to_value=parameter.high)]
    return descriptor
