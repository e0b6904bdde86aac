"""The options of the simulated robot."""

from __future__ import annotations

from typing import Literal

from streaming_vla.options.option import option
from streaming_vla.options.shared import NodeOptions

RobotName = Literal["metaworld", "so101"]


class SimRobotOptions(NodeOptions):
    """The robot, its scene and its pace."""

    robot: RobotName = option("metaworld", "Which one: metaworld = Meta-World's Sawyer arm, so101 = an SO-101.")
    task: str = option(
        "drawer-open", "Task at start: one of MT10, or cued-reach, count, return; of so101: touch, push, pick."
    )
    seed: int = option(10_000, "Places the objects at start.", ge=0, le=2**31 - 1)
    instruction_variant: int = option(
        0,
        "Wording of the instruction from the next reset on; the last two are held out of training.",
        live=True,
        ge=0,
        le=1000,
    )
    real_time_factor: float = option(
        0.25,
        "Simulated seconds per second; 0.25 is one environment step of Meta-World of 12.5 ms every 50 ms. so101: 1.",
        live=True,
        ge=0.01,
        le=2.0,
    )
    image_size: int = option(192, "Width of the camera pictures.", "px", ge=16, le=1280)
    image_height: int = option(
        0, "Height of the camera pictures, so101 only; 0 is that of a square.", "px", ge=0, le=960
    )
    camera_rate_hz: float = option(20.0, "Pictures per second of each camera.", "Hz", live=True, ge=0.1, le=100.0)
    command_timeout_s: float = option(
        0.0,
        "so101: a sender that is silent for so long behind the end of its trajectory counts as lost; 0: never.",
        "s",
        ge=0.0,
        le=60.0,
    )
    expert: bool = option(
        False,
        "Publish what the scripted expert would command now on expert_command, once an action; for demonstrations.",
        live=True,
    )
    publish_clock: bool = option(
        False, "Publish the simulated time on /clock and stamp every message with it; for nodes with use_sim_time."
    )
