"""What a policy says of itself, and the data set that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from streaming_vla.bringup.new_robot.facts import PolicyFacts, Range
from streaming_vla.datasets.facts import DatasetFacts, read_facts
from streaming_vla.engine.loading import look_at_model
from streaming_vla.engine.options import ModelOptions
from streaming_vla.policies.contract import FlowPolicy
from streaming_vla.policies.lerobot.action_data import ActionData


def policy_facts(options: ModelOptions, data: Path | None = None, without: Sequence[str] = ()) -> PolicyFacts:
    """Return what is known of a policy.

    Args:
        options: of its model.
        data: folder of the data set that it was trained on; None: not there.
        without: cameras of the policy that the robot does not have.

    Raises:
        ValueError: the model cannot be loaded, it does not run without a camera, or the data set is no such one.
    """
    policy = look_at_model(options)
    if without:
        options = options.changed(model_cameras=_cameras_left(policy, without))
        policy = look_at_model(options)
    spec, inner = policy.spec, getattr(policy, "policy", policy)
    trained_on = getattr(getattr(inner, "after", None), "data", None)  # of a checkpoint of LeRobot
    facts = None if data is None else read_facts(data)
    if facts is not None:
        _check(facts, data, spec.state_size, spec.layout.size)
    rate = facts.fps if facts else None if spec.control_period_s is None else 1.0 / spec.control_period_s
    given = options.values()
    defaults = {name: option.default for name, option in options.declared.items()}
    changed = {name: value for name, value in given.items() if name != "model" and value != defaults[name]}
    return PolicyFacts(
        model=options.model,
        spec=spec,
        inference=changed,
        data_ranges=() if trained_on is None else _ranges(trained_on),
        action_names=facts.action_names if facts else _named(spec.layout.names),
        state_names=facts.state_names if facts else spec.state_names,
        action_units=facts.action_units if facts else spec.action_units,
        rate=rate,
        source=f"data set {data}" if facts else "",
    )


def _cameras_left(policy: FlowPolicy, without: Sequence[str]) -> tuple[str, ...]:
    """Return `model_cameras` of a LeRobot policy without some of its cameras."""
    features: Mapping[str, str] | None = getattr(getattr(policy, "policy", policy), "features", None)
    if features is None:
        raise ValueError(
            f"--without is for SmolVLA, pi0 and pi0.5, policy {policy.spec.name} needs all of its cameras "
            f"{', '.join(policy.spec.cameras)}"
        )
    if strange := [camera for camera in without if camera not in features]:
        raise ValueError(f"--without names {', '.join(strange)}, the policy's cameras are {', '.join(features)}")
    left = tuple(f"{camera}={feature}" for camera, feature in features.items() if camera not in without)
    if not left:
        raise ValueError(f"--without names all cameras of the policy, {', '.join(features)}: it needs one at least")
    return left


def _ranges(data: ActionData) -> tuple[Range | None, ...]:
    low, high = data.limits(widened=0.0)
    return tuple((float(low[index]), float(high[index])) if known else None for index, known in enumerate(data.known))


def _named(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of actions, none where the checkpoint has none."""
    return () if names == tuple(f"action_{index}" for index in range(len(names))) else names


def _check(facts: DatasetFacts, data: Path | None, state: int, actions: int) -> None:
    if (len(facts.state_names), len(facts.action_names)) != (state, actions):
        raise ValueError(
            f"data set '{data}' has a state of {len(facts.state_names)} and actions of {len(facts.action_names)} "
            f"numbers, the policy of {state} and {actions}: give the one that it was trained on"
        )
