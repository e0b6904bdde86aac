"""A lifecycle node for the tests of the starter; parameters make it misbehave."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from streaming_vla.ros.exit_codes import CONFIG_ERROR
from streaming_vla.ros.heartbeat import Heartbeat


class Toy(LifecycleNode):
    """Writes its transitions with the time to stdout."""

    def __init__(self) -> None:
        super().__init__("toy")
        self.refuse = self.declare_parameter("refuse", False).value
        self.deaf = self.declare_parameter("deaf", False).value
        if self.declare_parameter("die", False).value:
            print(f"node '{self.get_name()}': the camera is on fire", file=sys.stderr)
            sys.exit(1)
        again = Path(self.declare_parameter("again", "").value)  # of a node that was edited meanwhile
        if again.is_file():
            print(f"node '{self.get_name()}': {again.read_text()}", file=sys.stderr)
            sys.exit(CONFIG_ERROR)
        self.note("made")

    def note(self, what: str) -> None:
        """Print a line that the tests can order."""
        print(f"NOTE {time.monotonic():.6f} {self.get_name()} {what}", flush=True)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take longer than the starter's question."""
        if self.refuse:
            self.get_logger().error(f"node '{self.get_name()}': model 'x' is unknown")
            return TransitionCallbackReturn.FAILURE
        time.sleep(0.3)
        self.note("configured")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Note it."""
        self.note("activated")
        return TransitionCallbackReturn.SUCCESS


def main() -> None:
    """Spin until SIGTERM."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))  # whoever notes "made" notes "stopped"
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Toy()
    if node.declare_parameter("autostart", False).value:
        node.note("starts itself")
        node.trigger_configure()
        node.trigger_activate()
    heartbeat = Heartbeat()
    while node.deaf or not stopping:
        rclpy.spin_once(node, timeout_sec=0.05)
        heartbeat.beat(node._state_machine.current_state[1], time.monotonic())
    node.note("stopped")
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
