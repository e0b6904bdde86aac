"""What a GR00T server says about its checkpoint, compared with the description of the robot's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.errors import listed
from streaming_vla.policies.lerobot.stated import wrong_values
from streaming_vla.policies.remote.keys import Keys
from streaming_vla.policies.remote.link import LinkError
from streaming_vla.policies.remote.messages import WireError

MODALITIES = ("video", "state", "action", "language")


class _Modality(BaseModel):
    """What is used of a ModalityConfig."""

    delta_indices: Annotated[list[int], Field(min_length=1, max_length=4096)]
    modality_keys: Annotated[list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=256)]


def check_modalities(told: Any, keys: Keys, spec: PolicySpec) -> str:
    """Return the key of the instruction.

    Args:
        told: what the server answers to get_modality_config.

    Raises:
        WireError: it is no modality configuration.
        LinkError: the checkpoint wants or gives something else than the description says.
    """
    video, state, action, language = (_modality(told, name) for name in MODALITIES)
    for what, modality, described in (
        ("video", video, keys.images.values()),
        ("state", state, keys.state),
        ("action", action, keys.actions),
    ):
        _compare(what, modality.modality_keys, [str(key) for key in described])
    for what, modality in (("video", video), ("state", state), ("language", language)):
        if len(modality.delta_indices) != 1:
            raise LinkError(f"its checkpoint wants {len(modality.delta_indices)} moments of {what}, one is sent")
    if len(action.delta_indices) != spec.trained_horizon:
        raise LinkError(
            f"its checkpoint gives {len(action.delta_indices)} actions, trained_horizon of the description is "
            f"{spec.trained_horizon}"
        )
    if len(language.modality_keys) != 1:
        raise LinkError(f"its checkpoint wants {listed(language.modality_keys)} as language, one instruction is sent")
    return keys.instruction or language.modality_keys[0]


def _modality(told: Any, name: str) -> _Modality:
    found = told.get(name) if isinstance(told, dict) else None
    inside = found.get("as_json") if isinstance(found, dict) else None
    if not isinstance(inside, dict):
        raise WireError(f"its modality configuration has no '{name}', expected the answer of a GR00T N1.6 server")
    try:
        return _Modality.model_validate(inside)
    except ValidationError as error:
        raise WireError(f"its modality configuration of '{name}': {wrong_values(error)}") from error


def _compare(what: str, its: Iterable[str], described: Iterable[str]) -> None:
    if set(its) != set(described):
        raise LinkError(f"its checkpoint has {listed(its)} as {what}, the description says {listed(described)}")
