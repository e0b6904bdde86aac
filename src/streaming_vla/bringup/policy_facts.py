"""What a policy says of itself, and the data set that it was trained on: loads the model, its weights included."""

from __future__ import annotations

from pathlib import Path

from streaming_vla.bringup.new_robot.facts import PolicyFacts
from streaming_vla.datasets.facts import DatasetFacts, read_facts
from streaming_vla.engine.loading import load_model
from streaming_vla.engine.options import ModelOptions
from streaming_vla.policies.lerobot.normalisation import limits_of


def policy_facts(options: ModelOptions, data: Path | None = None) -> PolicyFacts:
    """Return what is known of a policy.

    Args:
        options: of its model.
        data: folder of the data set that it was trained on; None: not there.

    Raises:
        ValueError: the model cannot be loaded, or the data set is no such one.
    """
    policy = load_model(options)
    spec, inner = policy.spec, getattr(policy, "policy", policy)
    after = getattr(inner, "after", None)  # of a checkpoint of LeRobot: its statistics are the training data's
    limits = limits_of(after.statistics, widened=0.0) if after is not None and after.statistics else ((), ())
    low, high = (tuple(float(value) for value in each) for each in limits)
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
        data_low=low,
        data_high=high,
        action_names=facts.action_names if facts else _named(spec.layout.names),
        state_names=facts.state_names if facts else spec.state_names,
        action_units=facts.action_units if facts else spec.action_units,
        rate=rate,
        source=f"data set {data}" if facts else "",
    )


def _named(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of actions, none where the checkpoint has none."""
    return () if names == tuple(f"action_{index}" for index in range(len(names))) else names


def _check(facts: DatasetFacts, data: Path | None, state: int, actions: int) -> None:
    if (len(facts.state_names), len(facts.action_names)) != (state, actions):
        raise ValueError(
            f"data set '{data}' has a state of {len(facts.state_names)} and actions of {len(facts.action_names)} "
            f"numbers, the policy of {state} and {actions}: give the one that it was trained on"
        )
