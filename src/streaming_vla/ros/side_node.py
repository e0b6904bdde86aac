"""A hidden node beside another one, whose messages are taken by a thread while it waits."""

from __future__ import annotations

from rclpy.node import Node

from streaming_vla.ros.executors import make_spinner

LONGEST_WAIT_S = 1.0


class SideNode:
    """How the engine's thread waits in ROS (see engine.thread.Waiting).

    A message that the node's own thread took would have to be handed to the engine's: that costs two changes of thread,
    and the interpreter is wanted by both. Here the engine's thread takes it, between two slices or while it waits.

    Args:
        beside: the node that it belongs to; the new one has its namespace and "_" before its name.
        robots: that are heard; of more than one messages may be there at the same time.
        events: see executors.make_spinner.
    """

    def __init__(self, beside: Node, robots: int, events: bool = True) -> None:
        self.node = Node(
            f"_{beside.get_name()}_requests",
            namespace=beside.get_namespace(),
            context=beside.context,
            use_global_arguments=False,  # they would give it the other one's name
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._spinner = make_spinner(self.node, events)
        self._several = robots > 1
        self._heard = False

    def hear(self) -> None:
        """To be called by callbacks of the node: the wait is over."""
        self._heard = True

    def wait(self, timeout_s: float | None) -> bool:
        """See engine.thread.Waiting."""
        self._heard = False
        self._spinner.spin_for(LONGEST_WAIT_S if timeout_s is None else min(LONGEST_WAIT_S, timeout_s))
        return self._heard and self._several

    def wake(self) -> None:
        """See engine.thread.Waiting."""
        self._spinner.wake()

    def close(self) -> None:
        """Leave the graph."""
        self._spinner.close()
        self.node.destroy_node()
