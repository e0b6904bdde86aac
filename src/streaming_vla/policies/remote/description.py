"""The description of a server's messages where its greeting does not say them: a YAML file, three of them shipped.

It has the fields of a spec (spec_metadata.py) and, under `keys`, where pictures, state, instruction and actions stand;
names of cameras and the size of the state follow from the keys.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.errors import CheckpointError, listed
from streaming_vla.policies.lerobot.stated import wrong_values
from streaming_vla.policies.remote.keys import Keys
from streaming_vla.policies.remote.messages import WireError
from streaming_vla.policies.remote.options import RemoteOptions
from streaming_vla.policies.remote.spec_metadata import MOST_NAMES, Name, spec_from_metadata
from streaming_vla.policies.shipped import shipped_folders

FOLDER = "config/remote"
SUFFIX = ".yaml"
MOST_BYTES = 256 * 1024

Counts = Annotated[
    dict[Name, Annotated[int, Field(strict=True, ge=1, le=MOST_NAMES)]], Field(min_length=1, max_length=MOST_NAMES)
]


class _Keys(BaseModel):
    """See Keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: Annotated[dict[Name, Name | tuple[Name, ...]], Field(min_length=1, max_length=MOST_NAMES)]
    channels_first: Annotated[bool, Field(strict=True)] = False
    state: Counts
    instruction: str = ""
    actions: Counts


def read_description(name: str, option: str = "model_remote") -> tuple[PolicySpec, Keys]:
    """Return spec and keys of a description.

    Args:
        name: of a shipped one, or the path of a file.
        option: that named it, for sentences.

    Raises:
        CheckpointError: there is no such file, or something in it is missing, unknown or wrong.
    """
    who = f"{option} '{name}'"
    path = _find(name, who)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{who}: it has more than {MOST_BYTES} bytes")
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{who} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(told, dict) or not isinstance(told.get("keys"), dict):
        raise CheckpointError(f"{who}: expected a map with the fields of a spec and `keys`")
    try:
        found = _Keys.model_validate(told.pop("keys"))
    except ValidationError as error:
        raise CheckpointError(f"{who}: keys: {wrong_values(error)}") from error
    keys = Keys(found.images, found.state, found.instruction, found.actions, found.channels_first)
    try:
        spec = spec_from_metadata({"cameras": list(keys.images), "state_size": sum(keys.state.values()), **told}, who)
        keys.check(spec, who)
    except WireError as error:
        raise CheckpointError(str(error)) from error
    return spec, keys


def with_cameras(spec: PolicySpec, keys: Keys, options: RemoteOptions) -> tuple[PolicySpec, Keys]:
    """Return both with the robot's names of the cameras, in the policy's order.

    Raises:
        CheckpointError: model_cameras does not name every camera of the policy once.
    """
    if not options.cameras:
        return spec, keys
    robots = {policys: robots for robots, policys in options.cameras.items()}
    if set(robots) != set(spec.cameras) or len(robots) < len(options.cameras):
        raise CheckpointError(
            f"model_cameras has {listed(f'{ours}={its}' for ours, its in options.cameras.items())}, expected each of "
            f"{listed(spec.cameras)} once behind ="
        )
    names = tuple(robots[camera] for camera in spec.cameras)
    return replace(spec, cameras=names), replace(keys, images=dict(zip(names, keys.images.values(), strict=True)))


def _find(name: str, who: str) -> Path:
    if name.endswith(SUFFIX) or "/" in name:
        return Path(name).expanduser()
    shipped: dict[str, Path] = {}
    for folder in shipped_folders(FOLDER):
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            shipped.setdefault(file.stem, file)
    if name not in shipped:
        raise CheckpointError(
            f"{who} is unknown: choose one of {listed(shipped) or 'none'}, or give the path of a {SUFFIX} file"
        )
    return shipped[name]
