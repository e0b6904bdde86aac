"""Options of a node, each declared once: type, default, range, unit, description, live or not. No ROS here.

A field of an `Options` model declares all of it. ROS parameters, parameter files, their documentation and the state
machines read that field and nothing else.
"""

from __future__ import annotations

import array
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from streaming_vla.options.texts import cut

Value = bool | int | float | str | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]
Self = TypeVar("Self", bound="Options")

_TYPE_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class OptionError(ValueError):
    """Options that are refused; the message is one sentence for each of them, with "; " between."""


def option(
    default: Any,
    description: str,
    unit: str = "",
    live: bool = False,
    guards: bool = False,
    ge: float | None = None,
    le: float | None = None,
) -> Any:
    """Return the declaration of an option.

    Args:
        default: a tuple stands for a list; it must not be empty, ROS cannot tell the type of an empty list.
        description: one sentence.
        unit: of the value, empty where it has none.
        live: whether a running node takes a new value at once; otherwise it is read at start.
        guards: whether it protects the robot: a live one is then taken between episodes only.
        ge: smallest allowed number; of the elements of a list it is in the type.
        le: largest allowed number, likewise.
    """
    return Field(
        default, description=description, json_schema_extra={"unit": unit, "live": live, "guards": guards}, ge=ge, le=le
    )


@dataclass(frozen=True)
class Option:
    """What an `Options` model says of one of its fields.

    Args:
        element_type: bool, int, float or str: type of the value, or of each element of a list.
        guards: protects the robot, see `option`.
        low: smallest allowed number, of each element in a list; None: there is none.
        high: largest allowed number, likewise.
        choices: the only values allowed; empty: any.
    """

    name: str
    default: Value
    description: str
    unit: str
    live: bool
    guards: bool
    element_type: type
    low: float | None
    high: float | None
    choices: tuple[Any, ...]

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.default, tuple)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        words = _TYPE_NAMES[self.element_type]
        if self.choices:
            words = f"one of {', '.join(map(str, self.choices))}"
        elif self.low is not None and self.high is not None:
            words += f" from {self.low:.10g} to {self.high:.10g}"
        elif self.low is not None:
            words += f" of {self.low:.10g} or more"
        words = f"a list, each {words}" if self.is_list else words
        return f"{words} ({self.unit})" if self.unit else words

    def as_written(self, value: Any) -> Any:
        """Return `value` with its lists as tuples, and as "off" where YAML has made `false` of that word."""
        if value is False and "off" in self.choices:
            return "off"
        return tuple(value) if isinstance(value, list | array.array) else value


class Options(BaseModel):
    """Options of a node or a part of it: immutable, hashable, every value checked.

    Raises:
        OptionError: an unknown name, or a value that is not allowed.
    """

    # strict: "1" is no number and 1 is not true; a whole number is taken where any number is
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    declared: ClassVar[Mapping[str, Option]] = {}  # every option by name

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.declared = {name: _declared(name, cls) for name in cls.model_fields}

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise OptionError("; ".join(_sentences(type(self), values, error))) from None

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        written = cls.declared[str(info.field_name)].as_written(value)
        if written == ():
            raise ValueError("an empty list")
        return written

    @classmethod
    def refusals(cls, values: Mapping[str, Any]) -> list[str]:
        """Return a sentence for each of `values` that is refused by itself, whatever the others are."""
        try:
            cls.__pydantic_validator__.validate_python(dict(values), self_instance=cls.__new__(cls))
        except ValidationError as error:
            return _sentences(cls, values, error, whole=False)
        return []

    def values(self) -> dict[str, Any]:
        """Return every option by name."""
        return {name: getattr(self, name) for name in self.declared}

    def changed(self: Self, /, **changes: Any) -> Self:
        """Return options with other values.

        Raises:
            OptionError: an unknown name, or a value that is not allowed.
        """
        return type(self)(**{**self.values(), **changes})


def unknown(name: str, known: Iterable[str]) -> str:
    """Return the sentence that refuses the parameter `name`, which is not one of `known`."""
    names, name = sorted(known), cut(name)
    return f"there is no parameter '{name}'{suggest(name, names)}; parameters are {', '.join(names)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean '...'?)" when a name of `known` is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _sentences(kind: type[Options], values: Mapping[str, Any], error: ValidationError, whole: bool = True) -> list[str]:
    """Return what pydantic found as sentences, one for each option; with `whole`, also what does not fit together."""
    sentences: dict[str, str] = {}
    for found in error.errors(include_url=False):
        name = str(found["loc"][0]) if found["loc"] else ""
        if name in sentences:  # of another element of the same list
            continue
        if found["type"] == "extra_forbidden":
            sentences[name] = unknown(name, kind.declared)
        elif name:
            value = cut(repr(_plain(values[name])))
            sentences[name] = f"parameter '{name}' is {value}, expected {kind.declared[name].allowed}"
        elif whole:
            sentences[name] = str(found["ctx"]["error"])
    return list(sentences.values())


def _plain(value: Any) -> Any:
    """Return arrays as lists, so that a refusal shows them as they were written."""
    return list(value) if isinstance(value, tuple | array.array) else value


def _declared(name: str, kind: type[Options]) -> Option:
    field = kind.model_fields[name]
    annotation, metadata = field.annotation, list(field.metadata)
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
        if get_origin(annotation) is Annotated:
            annotation, limits = get_args(annotation)
            metadata = limits.metadata
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    extra = field.json_schema_extra
    assert isinstance(extra, dict) and field.description, f"{kind.__name__}.{name} is not declared by option()"
    return Option(
        name,
        field.default,
        field.description,
        str(extra["unit"]),
        bool(extra["live"]),
        bool(extra["guards"]),
        type(choices[0]) if choices else annotation,  # type: ignore[arg-type]
        _limit(metadata, "ge"),
        _limit(metadata, "le"),
        choices,
    )


def _limit(metadata: list[Any], name: str) -> float | None:
    return next((getattr(limit, name) for limit in metadata if hasattr(limit, name)), None)
