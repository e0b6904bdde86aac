"""Options of an export from the robot's parameter file."""

from __future__ import annotations

from collections.abc import Sequence

from streaming_vla.bags.export import ExportOptions
from streaming_vla.bags.robot_bag import EPISODE, EXECUTION, INSTRUCTION, RobotOptions
from streaming_vla.bags.steps import StepOptions
from streaming_vla.commands.action_reader import ActionOptions
from streaming_vla.datasets.rates import rate_of_period
from streaming_vla.datasets.storage import Storage
from streaming_vla.images.encode import camera_options
from streaming_vla.parameters.nodes import SuiteOptions


def export_options(
    suite: SuiteOptions,
    *,
    namespace: str = "/",
    instruction: str = "",
    action_topics: Sequence[str] = (),
    state_topics: Sequence[str] = (),
    state_names: Sequence[str] = (),
    square: int | None = None,
    storage: Storage = Storage.film,
    longest_gap_s: float = StepOptions.longest_gap_s,
    robot_type: str = "",
) -> ExportOptions:
    """Return how the robot of a parameter file is exported.

    Args:
        suite: options of the robot's nodes.
        action_topics: empty: the executor's command_topic.

    Raises:
        ValueError: parameters that do not go together.
    """
    observer = suite.observer
    if square is not None and square < 1:
        raise ValueError(f"--square is {square}, expected the width and height of a picture in pixels")
    if not longest_gap_s > 0.0:
        raise ValueError(f"--longest-gap is {longest_gap_s:g}, expected seconds above 0")
    rate = rate_of_period(suite.generator.control_period_s)
    robot = RobotOptions(
        observer.of_cameras(observer.camera_topics),
        observer.robot_state_topic,
        (EPISODE, INSTRUCTION, EXECUTION),
        observer.state_joints,
        namespace,
        actions=action_options(suite, float(1 / rate)),
        state_topics=tuple(state_topics),
        nameless_joints=tuple(state_names) or observer.nameless_joints,
        action_topics=tuple(action_topics) or (suite.executor.command_topic,),
        instruction=instruction.strip(),
        state_units=observer.state_units,
    )
    turned = {camera: options.rotation for camera, options in camera_options(observer).items()}
    return ExportOptions(robot, StepOptions(rate, square, turned, longest_gap_s), storage, robot_type)


def action_options(suite: SuiteOptions, period_s: float) -> ActionOptions:
    """Return what commands mean, from the options of generator and executor."""
    names, executor = suite.generator.action_names, suite.executor
    joints = names if executor.joint_names == ("",) else executor.joint_names
    return ActionOptions(names, suite.generator.action_absolute, joints, executor.scale, period_s, executor.offset)
