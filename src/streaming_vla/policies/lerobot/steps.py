"""The steps of policy_preprocessor.json and policy_postprocessor.json: what they are called and what they state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from streaming_vla.policies.errors import CheckpointError, listed, shortened
from streaming_vla.policies.lerobot.config import Feature
from streaming_vla.policies.lerobot.folder import Folder
from streaming_vla.policies.lerobot.stated import Count, Positive, Stated, stated

PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
MOST_STEPS = 64


class Empty(Stated):
    """A step that states nothing."""


class Rename(Stated):
    """Observations come under other names than those of the policy's features."""

    rename_map: dict[str, str] = Field(default_factory=dict)


class StateText(Stated):
    """The normalised state becomes part of the text."""

    NOT_USED: ClassVar[frozenset[str]] = frozenset({"max_state_dim"})  # it is written as it is since lerobot 0.5

    include_state_in_prompt: Literal[True] = True
    task_key: Literal["task"] = "task"


class Device(Stated):
    """Where lerobot would compute; here the caller says so."""

    NOT_USED: ClassVar[frozenset[str]] = frozenset({"device"})

    float_dtype: Literal["float32"] | None = None


class Normalise(Stated):
    """Normalisation of features, or its inverse."""

    eps: Positive
    features: dict[str, Feature]
    norm_map: dict[str, str]
    normalize_observation_keys: None = None


class Tokenize(Stated):
    """Text becomes tokens."""

    NOT_USED: ClassVar[frozenset[str]] = frozenset({"padding"})  # padding is left out

    tokenizer_name: str | None = None
    max_length: Count
    padding_side: Literal["right"] = "right"
    truncation: Literal[True] = True
    task_key: Literal["task"] = "task"


class Relative(Stated):
    """Actions that are differences to the state, but for joints with a name of `exclude_joints` in theirs."""

    enabled: bool
    exclude_joints: Annotated[tuple[str, ...], Field(default=())]
    action_names: tuple[str, ...] | None = None


class Absolute(Stated):
    """The inverse of Relative."""

    enabled: bool


BEFORE: Mapping[str, type[Stated]] = {
    "rename_observations_processor": Rename,
    "to_batch_processor": Empty,
    "device_processor": Device,
    "normalizer_processor": Normalise,
    "smolvla_new_line_processor": Empty,
    "pi0_new_line_processor": Empty,
    "pi05_prepare_state_tokenizer_processor_step": StateText,
    "tokenizer_processor": Tokenize,
    "relative_actions_processor": Relative,
}
AFTER: Mapping[str, type[Stated]] = {
    "unnormalizer_processor": Normalise,
    "absolute_actions_processor": Absolute,
    "device_processor": Device,
}


@dataclass(frozen=True)
class Step:
    """A step of a processor file.

    Args:
        name: under which lerobot registers it.
        options: what it states.
        state_file: plain name of the file with its statistics; None: it has none.
    """

    name: str
    options: Stated
    state_file: str | None = None


def read_steps(folder: Folder, name: str, known: Mapping[str, type[Stated]]) -> tuple[Step, ...]:
    """Return the steps of a processor file in their order.

    Raises:
        CheckpointError: no such file, or a step that is not known, stands twice or states what is not supported.
    """
    who = f"{folder.who}: {name}"
    content = folder.json(
        name, "a checkpoint of lerobot before 0.4 has none: convert it with lerobot's migrate_policy_normalization"
    )
    entries = content.get("steps")
    if not isinstance(entries, list) or len(entries) > MOST_STEPS or not all(isinstance(e, dict) for e in entries):
        raise CheckpointError(f"{who} has no list of at most {MOST_STEPS} steps: it is no processor of lerobot")
    steps = tuple(_step(entry, f"{who}, step {number}", known) for number, entry in enumerate(entries))
    names = [step.name for step in steps if step.name != "device_processor"]
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise CheckpointError(f"{who} has {listed(twice)} more than once, expected each step once")
    return steps


def _step(entry: dict[str, Any], who: str, known: Mapping[str, type[Stated]]) -> Step:
    name = entry.get("registry_name")
    if not isinstance(name, str):
        raise CheckpointError(
            f"{who} is the class {shortened(entry.get('class'))} of somebody's own code, which is not run: expected a "
            "step that lerobot registers by name"
        )
    if name not in known:
        raise CheckpointError(f"{who} is '{shortened(name)}', which is not known here; known are {', '.join(known)}")
    state_file = entry.get("state_file")
    if not isinstance(state_file, str | None):
        raise CheckpointError(f"{who}: state_file is {shortened(state_file)}, expected the name of a file")
    return Step(name, stated(known[name], entry.get("config") or {}, f"{who} ({name})"), state_file)


def tokenizer_named(folder: Folder) -> str:
    """Return the hub's name of the tokenizer that a checkpoint asks for, for sentences that ask for its folder."""
    for step in read_steps(folder, PREPROCESSOR, BEFORE):
        if isinstance(step.options, Tokenize) and step.options.tokenizer_name:
            return step.options.tokenizer_name
    return "the policy's vision-language model"
