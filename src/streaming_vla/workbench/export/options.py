"""Options of an export from the robot's parameter file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streaming_vla.bags.export import ExportOptions
from streaming_vla.bags.robot_bag import EPISODE, EXECUTION, INSTRUCTION, RobotOptions
from streaming_vla.bags.steps import StepOptions
from streaming_vla.commands.action_reader import ActionOptions
from streaming_vla.commands.robot_state import EVERY_JOINT, joints_of
from streaming_vla.datasets.parts import Storage
from streaming_vla.datasets.rates import rate_of_period
from streaming_vla.images.encode import camera_options
from streaming_vla.parameters.tables import table

Values = Mapping[str, Mapping[str, Any]]


def export_options(
    values: Values,
    *,
    namespace: str = "/",
    instruction: str = "",
    action_topics: Sequence[str] = ("command",),
    state_topics: Sequence[str] = (),
    state_names: Sequence[str] = (),
    square: int | None = None,
    storage: Storage = Storage.film,
    longest_gap_s: float = StepOptions.longest_gap_s,
    robot_type: str = "",
) -> ExportOptions:
    """Return how the robot of a parameter file is exported.

    Args:
        values: of every parameter (`machine_options.all_values`).

    Raises:
        ValueError: parameters that do not go together.
    """
    observer, generator = values["observer"], values["generator"]
    cameras, topics = observer["cameras"], observer["camera_topics"]
    if len(cameras) != len(topics):
        raise ValueError(f"camera_topics has {len(topics)} topics, expected one for each of {', '.join(cameras)}")
    if square is not None and square < 1:
        raise ValueError(f"--square is {square}, expected the width and height of a picture in pixels")
    if not longest_gap_s > 0.0:
        raise ValueError(f"--longest-gap is {longest_gap_s:g}, expected seconds above 0")
    rate = rate_of_period(float(generator["control_period_s"]))
    state_joints = joints_of(observer) if observer["robot_state_joints"] != EVERY_JOINT else ()
    robot = RobotOptions(
        dict(zip(cameras, topics, strict=True)),
        observer["robot_state_topic"],
        (EPISODE, INSTRUCTION, EXECUTION),
        state_joints,
        namespace,
        actions=action_options(values, float(1 / rate)),
        state_topics=tuple(state_topics),
        nameless=tuple(state_names),
        action_topics=tuple(action_topics),
        instruction=instruction.strip(),
    )
    turned = {camera: options.rotation for camera, options in camera_options(observer).items()}
    return ExportOptions(robot, StepOptions(rate, square, turned, longest_gap_s), storage, robot_type)


def action_options(values: Values, period_s: float) -> ActionOptions:
    """Return what commands mean, from the parameters of generator and executor.

    A scale or joint_names that the file does not give have as many entries as the actions.
    """
    generator, executor = values["generator"], values["executor"]
    names = generator["action_names"]
    scale, joints = executor["scale"], executor["joint_names"]
    if len(scale) != len(names) and scale == table("executor")["scale"].default:
        scale = (1.0,) * len(names)
    if joints == ("",):
        joints = names
    return ActionOptions(tuple(names), tuple(generator["action_absolute"]), tuple(joints), tuple(scale), period_s)
