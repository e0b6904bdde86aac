"""Two executors of rclpy behind one way to wait for a node's callbacks, one callback at a time."""

from __future__ import annotations

import signal
from typing import Protocol

from rclpy.executors import SingleThreadedExecutor, TimeoutObject
from rclpy.node import Node

try:
    from rclpy.experimental import EventsExecutor
except ImportError:  # before ROS 2 Kilted
    EventsExecutor = None

SHORTEST_WAIT_S = 1e-6
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Spinner(Protocol):
    """Runs the callbacks of one node on the thread that calls it."""

    def spin_for(self, timeout_s: float) -> None:
        """Wait at most so many seconds for a callback, and run it."""

    def wake(self) -> None:
        """End the wait, or the next one. From any thread."""

    def close(self) -> None:
        """Let go of the node."""


def make_spinner(node: Node, events: bool = True) -> Spinner:
    """Return what spins a node. To be called on the main thread.

    The executor of events gives a message to its callback in half the time of the one that builds a wait set of every
    entity of the node before and after each callback, and serves all entities in the order in which they are ready.

    Args:
        node: that is spun.
        events: take that one where rclpy has it; not with raw subscriptions, which end the process in it.
    """
    return _Events(node) if events and EventsExecutor is not None else _WaitSets(node)


class _Events:
    def __init__(self, node: Node) -> None:
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._executor = EventsExecutor(context=node.context)
        for number, handler in handlers.items():
            signal.signal(number, handler)  # it has put its own in their place
        self._executor.add_node(node)

    def spin_for(self, timeout_s: float) -> None:
        self._executor.spin_once(max(SHORTEST_WAIT_S, timeout_s))  # it does nothing at all when it may not wait

    def wake(self) -> None:
        self._executor.create_task(lambda: None)  # its own wake ends no wait, a task that it does ends one

    def close(self) -> None:
        self._executor.shutdown(0.0)


class _WaitSets:
    def __init__(self, node: Node) -> None:
        self._executor = SingleThreadedExecutor(context=node.context)
        # One object for all calls: at another timeout the executor forgets what else was ready, looks at subscriptions
        # first again, and a service beside a fast topic would never be served.
        self._wait = TimeoutObject(0.0)
        self._woken = node.create_guard_condition(lambda: None)  # its own wake makes it wait anew
        self._executor.add_node(node)

    def spin_for(self, timeout_s: float) -> None:
        self._wait.timeout = timeout_s
        # as its own spin_until_future_complete does
        self._executor.spin_once(timeout_sec=self._wait)  # type: ignore[arg-type]

    def wake(self) -> None:
        self._woken.trigger()

    def close(self) -> None:
        self._executor.shutdown(0.0)
