"""The node graph: the one list that the launch files and the built-in starter read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

PACKAGE = "streaming_vla"

Setting = bool | int | float | str | tuple[bool | int | float | str, ...]
Settings = Mapping[str, Mapping[str, Setting]]
"""Parameters per node name."""


class Part(str, Enum):
    """Which processes to start: the model may run on another machine than the robot, and serve several robots."""

    all = "all"
    robot = "robot"  # all but the model
    inference = "inference"


@dataclass(frozen=True)
class GraphNode:
    """One process of the suite.

    Args:
        name: of the ROS node and of its executable in the package.
        module: Python module that runs the node (`python -m`).
        simulated_only: part of the simulated robot; a real robot brings its own.
    """

    name: str
    module: str
    simulated_only: bool = False


# In the order in which they are brought up: each finds the ones that it talks to.
NODES = (
    GraphNode("sim_robot", "streaming_vla.ros.nodes.sim_robot", simulated_only=True),
    GraphNode("inference", "streaming_vla.ros.nodes.inference"),
    GraphNode("observer", "streaming_vla.ros.nodes.observer"),
    GraphNode("generator", "streaming_vla.ros.nodes.generator"),
    GraphNode("executor", "streaming_vla.ros.nodes.executor"),
    GraphNode("saliency_monitor", "streaming_vla.ros.nodes.saliency_monitor"),
)

# The nodes follow the simulated robot's clock, which slows down where the machine is too busy for it. Not by default:
# streaming, the arm takes a third to two thirds more actions on it, and nobody has found out why.
SIMULATED_CLOCK: Settings = {
    node.name: {"publish_clock": True} if node.simulated_only else {"use_sim_time": True} for node in NODES
}
# With the simulated robot an episode begins by itself when a task is set.
SIMULATED_SETTINGS: Settings = {"saliency_monitor": {"auto_start": True}}


def nodes(simulated: bool, part: Part = Part.all) -> tuple[GraphNode, ...]:
    """Return the processes to start, in order, with or without the simulated robot."""
    return tuple(
        node
        for node in NODES
        if (simulated or not node.simulated_only)
        and (part is Part.all or (node.name == "inference") == (part is Part.inference))
    )
