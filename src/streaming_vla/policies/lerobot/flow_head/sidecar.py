"""streaming_vla.json beside a checkpoint: what was trained here, and what no file of LeRobot's says of its actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from streaming_vla.policies.errors import CheckpointError
from streaming_vla.policies.lerobot.config import PolicyConfig
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.stated import Count, Positive, Stated, stated

SIDECAR = "streaming_vla.json"
TENSORS = "streaming_vla.safetensors"  # beside model.safetensors, which lerobot reads: the flow head's own
NO_JOINT = -1


class Sidecar(Stated):
    """What the file states.

    Args:
        head: "flow" answers one action a step (action flow matching), "chunk" is LeRobot's own.
        horizon: actions of a context H.
        execution_horizon: of them are meant to be executed.
        delay: actions that a picture was old at most when its context took over in training.
        scale: of one action, or of the change of a target, in action units, [A].
        absolute: actions that are targets; the others are changes, [A].
        action_names, state_names: as in the data set.
        joints: place in the state of what an action moves, [A]; NO_JOINT where the data set has none of its name.
        control_period_s: that an action lasts.
    """

    NOT_USED: ClassVar[frozenset[str]] = frozenset({"training"})

    format: Literal["streaming_vla.vla.1"] = "streaming_vla.vla.1"
    head: Literal["flow", "chunk"]
    horizon: Count
    execution_horizon: Count
    delay: Annotated[int, Field(strict=True, ge=0, le=4096)]
    scale: tuple[Positive, ...]
    absolute: tuple[bool, ...]
    action_names: tuple[str, ...]
    state_names: tuple[str, ...]
    joints: tuple[Annotated[int, Field(strict=True, ge=NO_JOINT)], ...]
    control_period_s: Positive


def read_sidecar(folder: Folder, config: PolicyConfig) -> Sidecar | None:
    """Return what the file of a checkpoint states, None where there is none: it was not trained here.

    Raises:
        CheckpointError: a value is missing or out of range, or the lists are of another robot than config.json.
    """
    if not folder.has(SIDECAR):
        return None
    who = f"{folder.who}: {SIDECAR}"
    found = stated(Sidecar, folder.json(SIDECAR, ""), who)
    counts = {name: config.action_size for name in ("scale", "absolute", "action_names", "joints")}
    for name, count in {**counts, "state_names": config.state_size}.items():
        if len(getattr(found, name)) != count:
            raise CheckpointError(f"{who}: {name} has {len(getattr(found, name))} entries, config.json tells {count}")
    if max(found.joints) >= config.state_size:
        raise CheckpointError(f"{who}: joints has {max(found.joints)}, the state has {config.state_size} numbers")
    if not found.execution_horizon <= found.horizon or not found.delay < found.horizon:
        raise CheckpointError(
            f"{who}: execution_horizon is {found.execution_horizon} and delay {found.delay}, expected at most, and "
            f"less than, the horizon {found.horizon}"
        )
    if config.chunk_size != found.horizon:
        raise CheckpointError(f"{who}: horizon is {found.horizon}, chunk_size of config.json is {config.chunk_size}")
    return found


def write_sidecar(folder: Path, sidecar: Sidecar, training: dict[str, Any]) -> None:
    """Write the file, with how it was trained."""
    content = {**sidecar.model_dump(mode="json"), "training": training}
    (folder / SIDECAR).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
