"""What a parameter is, and whether a value is allowed for it. No ROS here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Scalar = bool | int | float | str
Value = Scalar | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]
Values = Mapping[str, Value]

_TYPE_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Parameter:
    """One parameter; the type of `default` is the type of every value.

    Args:
        name: as in the YAML file.
        default: a tuple stands for a list; it must not be empty, ROS cannot tell the type of an empty list.
        description: one sentence for `ros2 param describe` and the YAML file.
        unit: of the value, empty where it has none.
        low: smallest allowed number, of each element in a list.
        high: largest allowed number, of each element in a list.
        choices: the only texts allowed.
        live: whether a running node takes a new value at once; otherwise it is read-only.
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def __post_init__(self) -> None:
        if self.default == ():
            raise ValueError(f"parameter '{self.name}': the default must not be an empty list")
        reason = check(self, self.default)
        if reason is not None:
            raise ValueError(f"default refused: {reason}")

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.default, tuple)

    @property
    def element_type(self) -> type:
        """bool, int, float or str: type of the value, or of each element of a list."""
        return type(self.default[0]) if isinstance(self.default, tuple) else type(self.default)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        words = f"a list, each {_TYPE_NAMES[self.element_type]}" if self.is_list else _TYPE_NAMES[self.element_type]
        if self.choices:
            return f"{'a list, each ' if self.is_list else ''}one of {', '.join(self.choices)}"
        if self.low is not None and self.high is not None:
            words += f" from {self.low:.10g} to {self.high:.10g}"
        elif self.low is not None:
            words += f" of {self.low:.10g} or more"
        return f"{words} ({self.unit})" if self.unit else words


def as_written(parameter: Parameter, value: object) -> object:
    """Return "off" where YAML has made `false` of an `off` that was written for a text; else `value`."""
    return "off" if value is False and "off" in parameter.choices else value


def check(parameter: Parameter, value: object) -> str | None:
    """Return why `value` is refused for `parameter`, one sentence, or None when it is allowed."""
    value = as_written(parameter, value)
    elements = list(value) if isinstance(value, list | tuple) else [value]
    fits = parameter.is_list == isinstance(value, list | tuple) and len(elements) > 0
    if fits and all(_element_fits(parameter, element) for element in elements):
        return None
    return f"parameter '{parameter.name}' is {value!r}, expected {parameter.allowed}"


def convert(parameter: Parameter, value: object) -> Value:
    """Return an allowed `value` in the parameter's own type: whole numbers become floats, lists become tuples.

    Raises:
        ValueError: the value is not allowed.
    """
    reason = check(parameter, value)
    if reason is not None:
        raise ValueError(reason)
    value = as_written(parameter, value)
    kind = parameter.element_type
    if isinstance(value, list | tuple):
        return tuple(kind(element) for element in value)
    converted: Value = kind(value)
    return converted


def _element_fits(parameter: Parameter, element: object) -> bool:
    kind = parameter.element_type
    if isinstance(element, bool) or kind is bool:
        return isinstance(element, bool) and kind is bool
    if kind is str:
        return isinstance(element, str) and (not parameter.choices or element in parameter.choices)
    if not isinstance(element, int | float) or (kind is int and not isinstance(element, int)):
        return False
    if not math.isfinite(element):
        return False
    return (parameter.low is None or element >= parameter.low) and (parameter.high is None or element <= parameter.high)
