"""What a LeRobot policy is fed and gives, in the suite's terms: cameras, layout of its actions, horizons."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from kv_cache.spec import CacheSpec
from streaming_vla.policies.check import SAME_PERIOD
from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.errors import CheckpointError, listed
from streaming_vla.policies.layout import ActionLayout
from streaming_vla.policies.lerobot.action_data import WIDE, ActionData
from streaming_vla.policies.lerobot.config import PolicyConfig
from streaming_vla.policies.lerobot.flow_head.sidecar import Sidecar
from streaming_vla.policies.lerobot.options import LoadOptions

LOGGER = logging.getLogger(__name__)


def make_spec(
    name: str,
    config: PolicyConfig,
    options: LoadOptions,
    cameras: Mapping[str, str],
    data: ActionData,
    named: tuple[str, ...],
    cache: CacheSpec,
    tokens: int,
    image_size: int,
    image_fit: str,
    sidecar: Sidecar | None = None,
) -> PolicySpec:
    """Return the spec of a policy.

    Args:
        cameras: of `cameras_of`.
        data: behind the actions.
        named: names of the actions that the checkpoint has; empty: none.
        cache: shape of a token.
        tokens: of an observation, at most.
        image_size: of its pictures.
        image_fit: how a camera's picture becomes square.
        sidecar: what a training here tells of the actions; None: it was trained elsewhere.

    Raises:
        CheckpointError: action_names, action_absolute, execution_horizon or control_period_s do not fit.
    """
    count = config.action_size
    own = named or tuple(f"action_{index}" for index in range(count)) if sidecar is None else sidecar.action_names
    names = options.action_names or own
    if len(names) != count or len(set(names)) != count:
        raise CheckpointError(f"action_names are {listed(names)}, expected {count} different ones")
    absolute, period_s = _told(options, sidecar, count)
    horizon = options.execution_horizon or config.n_action_steps
    if not 1 <= horizon <= config.chunk_size:
        raise CheckpointError(f"execution_horizon is {horizon}, expected 1 to {config.chunk_size}, the chunk's rows")
    return PolicySpec(
        name=name,
        cameras=tuple(cameras),
        image_size=image_size,
        state_size=config.state_size,
        layout=make_layout(names, absolute, data),
        execution_horizon=horizon,
        trained_horizon=config.chunk_size,
        tokens_per_observation=tokens,
        cache=cache,
        control_period_s=period_s,
        image_fit=image_fit,
        denoise_steps=config.denoise_steps,
        state_names=() if sidecar is None else sidecar.state_names,
        device=str(options.torch_device),
    )


def _told(options: LoadOptions, sidecar: Sidecar | None, count: int) -> tuple[tuple[bool, ...], float | None]:
    """Return which actions are targets, and how long one lasts; CheckpointError where options and file differ."""
    period_s = options.control_period_s
    if sidecar is None:
        return (options.action_absolute,) * count, period_s
    if not options.action_absolute and any(sidecar.absolute):
        raise CheckpointError("model_action_absolute is false, the checkpoint was trained on targets: leave it true")
    if period_s is not None and abs(period_s - sidecar.control_period_s) > SAME_PERIOD * period_s:
        raise CheckpointError(
            f"control_period_s is {period_s:g}, the checkpoint was trained on actions of {sidecar.control_period_s:g} s"
        )
    return sidecar.absolute, sidecar.control_period_s


def make_layout(names: tuple[str, ...], absolute: tuple[bool, ...], data: ActionData) -> ActionLayout:
    """Return the layout of actions, with limits a little wider than the data that the policy was trained on.

    Args:
        absolute: of each action, whether it is a target.

    Raises:
        CheckpointError: the actions are said to be changes, and the checkpoint makes targets of them.
    """
    if not all(absolute) and data.relative.any():
        raise CheckpointError(
            "model_action_absolute is false, but the checkpoint adds the state to its relative actions, so the robot "
            "gets targets: leave it true"
        )
    if not data.known.all():
        LOGGER.warning(
            "No statistics tell the range of %s: limits are %g and %g, set action_low and action_high to the robot's",
            listed(name for name, known in zip(names, data.known, strict=True) if not known),
            -WIDE,
            WIDE,
        )
    low, high = data.limits()
    start = np.where(absolute, data.mean(), 0.0)
    as_floats = [tuple(float(value) for value in each) for each in (low, high, np.clip(start, low, high))]
    return ActionLayout(names, absolute, *as_floats)


def cameras_of(
    config: PolicyConfig, renamed: Mapping[str, str], chosen: Mapping[str, str] | None, all_needed: bool
) -> dict[str, str]:
    """Return the feature of each of the robot's cameras, in the policy's order.

    Args:
        renamed: what the robot calls a feature, by the policy's name for it.
        chosen: of LoadOptions.
        all_needed: the policy does not run without one of its cameras.

    Raises:
        CheckpointError: a camera is told to be a feature that is not there, or one is missing.
    """
    outside = {feature: renamed.get(feature, feature) for feature in config.cameras}
    if not chosen:
        short = {feature: name.rsplit(".", 1)[-1] for feature, name in outside.items()}
        names = short if len(set(short.values())) == len(short) else outside
        return {names[feature]: feature for feature in config.cameras}
    by_name = {**{feature: feature for feature in outside}, **{name: feature for feature, name in outside.items()}}
    strange = [f"{camera}={feature}" for camera, feature in chosen.items() if feature not in by_name]
    if strange or len({by_name[feature] for feature in chosen.values()}) != len(chosen):
        raise CheckpointError(
            f"model_cameras has {listed(strange or chosen)}, expected different ones of {listed(outside.values())}"
        )
    camera_of = {by_name[feature]: camera for camera, feature in chosen.items()}
    missing = [feature for feature in config.cameras if feature not in camera_of]
    if missing and all_needed:
        raise CheckpointError(
            f"model_cameras names no camera for {listed(missing)}, without which the policy does not run"
        )
    if missing:
        LOGGER.warning("The policy runs without the pictures of %s: model_cameras names no camera", listed(missing))
    return {camera_of[feature]: feature for feature in config.cameras if feature in camera_of}
