"""What a stranger's JSON states, as typed models: what is used is checked, what is known not to matter is passed over,
and anything else that is switched on is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streaming_vla.policies.errors import CheckpointError, listed, shortened

Model = TypeVar("Model", bound="Stated")
Count = Annotated[int, Field(strict=True, ge=1, le=4096)]
"""Of rows and tokens."""
Layers = Annotated[int, Field(strict=True, ge=1, le=256)]
"""Of layers and heads: bounded, so that a network is not built without end before its weights are compared."""
Width = Annotated[int, Field(strict=True, ge=1, le=65_536)]
"""Of a layer."""
Size = Annotated[int, Field(strict=True, ge=1, le=1_048_576)]
"""Of a feature or a vocabulary."""
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Stated(BaseModel):
    """A part of a file. Options that are not declared may stand in it when they are off, or in NOT_USED."""

    model_config = ConfigDict(extra="allow", frozen=True)

    NOT_USED: ClassVar[frozenset[str]] = frozenset()
    """Options that say how something was trained or stored, and change nothing that a policy computes."""
    ADVICE: ClassVar[dict[str, str]] = {}
    """What to do about options that are not supported."""


def stated(kind: type[Model], content: Any, who: str) -> Model:
    """Return a part of a file as its model.

    Args:
        content: what the JSON holds there.
        who: names the file and the place.

    Raises:
        CheckpointError: a value is missing, of another kind or out of range, or an option is on that is not known.
    """
    try:
        found = kind.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{who}: {wrong_values(error)}") from error
    unknown = {
        name: value
        for name, value in (found.model_extra or {}).items()
        if name not in kind.NOT_USED and not _is_off(value)
    }
    if unknown:
        name = next(iter(unknown))
        advice = kind.ADVICE.get(name, "run such a policy by lerobot itself")
        every = [f"{key} = {shortened(value)}" for key, value in unknown.items()]
        raise CheckpointError(f"{who}: {listed(every)} is not supported here; {advice}")
    return found


def wrong_values(error: ValidationError) -> str:
    """Return which values are wrong, each with what was expected."""
    return listed(
        f"{'.'.join(str(part) for part in each['loc']) or 'it'} is "
        + ("missing" if each["type"] == "missing" else f"{shortened(repr(each['input']))} ({each['msg'].lower()})")
        for each in error.errors()
    )


def _is_off(value: Any) -> bool:
    return value is None or value is False or value == 0 or value in ("", [], {})
