"""Declares a node's options as ROS parameters and refuses, with a reason, what is not one of them."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from streaming_vla.options.option import Option, Options, unknown
from streaming_vla.options.shared import SharedOptions
from streaming_vla.parameters.load import ROS_PREFIXES, origin

OptionsT = TypeVar("OptionsT", bound=Options)
_WHOLE = {Parameter.Type.INTEGER: Parameter.Type.DOUBLE, Parameter.Type.INTEGER_ARRAY: Parameter.Type.DOUBLE_ARRAY}


class StartError(RuntimeError):
    """The node cannot start; the message is one sentence for the operator."""


class ConfigError(StartError):
    """The node cannot start as it is configured: starting it again is of no use."""


def parameter_files(arguments: Sequence[str]) -> list[Path]:
    """Return the parameter files of a node's command line, in order."""
    return [Path(name) for flag, name in itertools.pairwise(arguments) if flag == "--params-file"]


def located(sentence: str, node: Node, names: Iterable[str]) -> str:
    """Return a sentence on the options of `node` with the file and section in front that set what it names.

    Args:
        names: of the options.
    """
    files = [path for path in parameter_files(sys.argv) if path.is_file()]
    named = [name for name in names if f"'{name}'" in sentence]
    named = named or [name for name in names if re.search(rf"\b{re.escape(name)}\b", sentence)]
    place = origin(files, node.get_fully_qualified_name(), named) or "".join(map(str, files[:1]))
    return f"{place}: {sentence}" if place else sentence


class Declared(Generic[OptionsT]):
    """The options of a node as ROS parameters; `options` are kept current as parameters are set.

    Args:
        node: whose parameters they are; values from files and the command line are taken and checked.
        kind: of the options.
        update: called with new options that are about to be taken; a ValueError refuses them.
        guarded: whether an episode runs, in which what protects the robot stays as it is.

    Raises:
        ConfigError: a parameter that does not exist, or a value that is not allowed.
    """

    def __init__(
        self,
        node: Node,
        kind: type[OptionsT],
        update: Callable[[OptionsT], None],
        guarded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._kind, self._update, self._guarded = kind, update, guarded
        try:
            self.options: OptionsT = kind(**_given(node, kind))
        except ValueError as error:
            sentence = f"node '{node.get_name()}': {error}"
            raise ConfigError(located(sentence, node, [*kind.declared, *node._parameter_overrides])) from error
        for name, value in self.options.values().items():
            written = list(value) if isinstance(value, tuple) else value
            node.declare_parameter(name, written, _descriptor(kind.declared[name]), ignore_override=True)
        node.add_pre_set_parameters_callback(self._before_set)
        node.add_on_set_parameters_callback(self._set)

    def _before_set(self, changes: list[Parameter[Any]]) -> list[Parameter[Any]]:
        """Return the changes as they were meant: `ros2 param set` makes an integer of 2 and false of off."""
        return [self._meant(change) for change in changes]

    def _meant(self, change: Parameter[Any]) -> Parameter[Any]:
        option = self._kind.declared.get(change.name)
        if option is None:
            return change
        is_list = change.type_ is Parameter.Type.INTEGER_ARRAY
        if option.element_type is float and change.type_ in _WHOLE and option.is_list == is_list:
            numbers = [float(number) for number in change.value] if is_list else float(change.value)
            return Parameter(change.name, _WHOLE[change.type_], numbers)
        if change.value is False and option.as_written(False) == "off":
            return Parameter(change.name, Parameter.Type.STRING, "off")
        return change

    def _set(self, changes: list[Parameter[Any]]) -> SetParametersResult:
        known = {change.name: _plain(change.value) for change in changes if not change.name.startswith(ROS_PREFIXES)}
        try:
            options = self.options.changed(**known)
            self._check_guards(options)
            self._update(options)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.options = options
        return SetParametersResult(successful=True)

    def _check_guards(self, options: OptionsT) -> None:
        before, after = self.options.values(), options.values()
        changed = [
            name for name, option in self._kind.declared.items() if option.guards and before[name] != after[name]
        ]
        if changed and self._guarded():
            raise ValueError(
                f"{', '.join(changed)} cannot change while an episode runs, for it protects the robot: "
                "call stop_episode first"
            )


def _given(node: Node, kind: type[Options]) -> dict[str, Any]:
    """Return what files and the command line set, as ROS has parsed it; of section "/**" what the node has.

    Raises:
        ValueError: a parameter that neither the node nor section "/**" has.
    """
    # rclpy offers no public way to see an override that is not declared
    overrides: dict[str, Parameter[Any]] = node._parameter_overrides
    for key in overrides:
        if key not in kind.declared and key not in SharedOptions.declared and not key.startswith(ROS_PREFIXES):
            raise ValueError(unknown(key, kind.declared))
    return {key: _plain(override.value) for key, override in overrides.items() if key in kind.declared}


def _plain(value: Any) -> Any:
    """Return arrays as lists, so that a refusal shows them as they were written."""
    return value if isinstance(value, bool | int | float | str) or value is None else list(value)


def _descriptor(option: Option) -> ParameterDescriptor:
    unit = f" [{option.unit}]" if option.unit else ""
    descriptor = ParameterDescriptor(
        name=option.name,
        description=option.description + unit,
        additional_constraints=option.allowed,
        read_only=not option.live,
    )
    if option.low is not None and option.high is not None and not option.is_list:
        if option.element_type is int:
            whole = IntegerRange(from_value=int(option.low), to_value=int(option.high), step=1)
            descriptor.integer_range = [whole]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=option.low, to_value=option.high)]
    return descriptor
