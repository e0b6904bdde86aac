"""A policy's spec as plain values: what `streaming-vla serve` greets with under SPEC_KEY, and what the file of a server
that does not say it holds.

What is not there (cache, tokens, denoising) stays with the server: the robot's side keeps no history of such a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.errors import shortened
from streaming_vla.policies.image_fit import ImageFit
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.policies.lerobot.stated import wrong_values
from streaming_vla.policies.remote.messages import WireError

SPEC_KEY = "streaming_vla"
MOST_NAMES = 256

Name = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
Names = Annotated[tuple[Name, ...], Field(max_length=MOST_NAMES)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Numbers = Annotated[tuple[Number, ...], Field(max_length=MOST_NAMES)]
Rows = Annotated[int, Field(strict=True, ge=1, le=4096)]


class _Spec(BaseModel):
    """The fields of PolicySpec and ActionLayout that are told; see there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    cameras: Names
    image_size: Annotated[int, Field(strict=True, ge=1, le=4096)]
    image_fit: ImageFit = "crop"
    pad_value: Annotated[int, Field(strict=True, ge=0, le=255)] = 0
    state_size: Annotated[int, Field(strict=True, ge=1, le=MOST_NAMES)]
    state_names: Names = ()
    action_names: Names
    action_absolute: Annotated[tuple[Annotated[bool, Field(strict=True)], ...], Field(max_length=MOST_NAMES)]
    action_low: Numbers
    action_high: Numbers
    action_initial: Numbers
    action_units: Annotated[tuple[str, ...], Field(max_length=MOST_NAMES)] = ()
    execution_horizon: Rows
    trained_horizon: Rows
    control_period_s: Annotated[float, Field(strict=True, gt=0.0, allow_inf_nan=False)] | None = None


def spec_to_metadata(spec: PolicySpec) -> dict[str, Any]:
    """Return what a client has to know of a policy: text, numbers and lists of them."""
    layout = spec.layout
    return {
        "name": spec.name,
        "cameras": list(spec.cameras),
        "image_size": spec.image_size,
        "image_fit": spec.image_fit,
        "pad_value": spec.pad_value,
        "state_size": spec.state_size,
        "state_names": list(spec.state_names),
        "action_names": list(layout.names),
        "action_absolute": list(layout.absolute),
        "action_low": list(layout.low),
        "action_high": list(layout.high),
        "action_initial": list(layout.initial),
        "action_units": list(spec.action_units),
        "execution_horizon": spec.execution_horizon,
        "trained_horizon": spec.trained_horizon,
        "control_period_s": spec.control_period_s,
    }


def spec_from_metadata(told: Mapping[str, Any], who: str = "the spec") -> PolicySpec:
    """Return the spec of a policy of chunks that another machine computes.

    Args:
        told: what `spec_to_metadata` returns.
        who: names the server or the file in errors.

    Raises:
        WireError: a value is missing, of another kind, out of range, or unknown.
    """
    if not isinstance(told, Mapping):
        raise WireError(f"{who}: it is a {type(told).__name__}, expected a map of names to values")
    try:
        read = _Spec.model_validate(dict(told))
        layout = ActionLayout(
            read.action_names, read.action_absolute, read.action_low, read.action_high, read.action_initial
        )
        return PolicySpec(
            name=read.name,
            cameras=read.cameras,
            image_size=read.image_size,
            state_size=read.state_size,
            layout=layout,
            execution_horizon=read.execution_horizon,
            trained_horizon=read.trained_horizon,
            control_period_s=read.control_period_s,
            image_fit=read.image_fit,
            pad_value=read.pad_value,
            state_names=read.state_names,
            action_units=read.action_units,
            denoise_steps=1,
        )
    except ValidationError as error:
        raise WireError(f"{who}: {wrong_values(error)}") from error
    except ValueError as error:
        raise WireError(f"{who}: {shortened(str(error))}") from error
