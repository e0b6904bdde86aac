"""How a process spins its node: nothing that is ready is forgotten, whatever the node's next deadline."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from own_context import own_context
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Empty
from std_srvs.srv import Trigger

from streaming_vla.ros.executors import EventsExecutor, make_spinner
from streaming_vla.ros.spin import _spin_once

pytestmark = pytest.mark.ros
ENOUGH = 100  # spins


@pytest.fixture
def context() -> Iterator[Context]:
    with own_context() as own:
        yield own


class Served:
    """What `_spin_once` asks of a suite's node; its deadline is always near, as an executor's in a hold."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._distances = itertools.cycle((0.011, 0.013, 0.017))

    def now(self) -> float:
        return time.monotonic()

    def until(self, time_s: float) -> float:
        return time_s - self.now()

    def deadline(self) -> float:
        return self.now() + next(self._distances)

    def handle_responses(self) -> None:
        pass

    def tick(self) -> None:
        pass


@pytest.mark.parametrize("events", [True, False])
def test_a_service_is_answered_beside_a_topic_that_is_always_ready(context: Context, events: bool) -> None:
    if events and EventsExecutor is None:
        pytest.skip("rclpy has no executor of events before ROS 2 Kilted")
    served, other = (rclpy.create_node(name, context=context) for name in ("served", "other"))
    heard: list[Any] = []
    served.create_subscription(Empty, "flood", heard.append, 10)
    served.create_service(Trigger, "ask", lambda _request, response: response)
    others = SingleThreadedExecutor(context=context)
    spinner = make_spinner(served, events)
    others.add_node(other)
    flood, client = other.create_publisher(Empty, "flood", 10), other.create_client(Trigger, "ask")
    end_s = time.monotonic() + 20.0
    while not (client.service_is_ready() and flood.get_subscription_count()):
        assert time.monotonic() < end_s, "the nodes do not find each other"
        others.spin_once(timeout_sec=0.05)
    answer, node = client.call_async(Trigger.Request()), Served(served)
    for _ in range(ENOUGH):
        for _ in range(3):  # faster than it takes them
            flood.publish(Empty())
        time.sleep(0.002)
        _spin_once(spinner, node)  # type: ignore[arg-type]
        others.spin_once(timeout_sec=0.0)
        if answer.done():
            break
    assert answer.done() and heard, f"no answer in {ENOUGH} spins"
    spinner.close()
    others.shutdown()
