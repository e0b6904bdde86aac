"""The robot's state as nodes hear it: the topic, type and joints of the `robot_state_*` parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from streaming_vla.commands.robot_state import StateReader
from streaming_vla.commands.units import Units
from streaming_vla.options.shared import ARRAY, JOINTS, RobotStateOptions
from streaming_vla.ros.base import BEST_EFFORT, SuiteNode

TYPES = {ARRAY: Float64MultiArray, JOINTS: JointState}


def listen_to_robot_state(
    node: SuiteNode[Any],
    options: RobotStateOptions,
    handle: Callable[[npt.NDArray[np.float64]], None],
    heard: Callable[[], None] = lambda: None,
) -> None:
    """Subscribe; `handle` gets every state, [state_size], in the policy's order and units.

    Args:
        node: that listens.
        options: where the state comes from.
        handle: gets the states while the node is active.
        heard: called with every message, also with one that is refused.

    Raises:
        ValueError: the parameters do not fit together.
    """
    read = StateReader(
        options.robot_state_type,
        options.state_joints,
        units=Units(*options.state_units),
        nameless=options.nameless_joints,
    )

    def convert(message: Any) -> npt.NDArray[np.float64]:
        heard()
        return read(message)

    node.listen(TYPES[options.robot_state_type], options.robot_state_topic, convert, handle, BEST_EFFORT)
