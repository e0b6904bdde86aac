"""The engine's thread waits in ROS: for its messages, for whoever wakes it, and no longer than it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from own_context import own_context
from std_msgs.msg import Empty

from streaming_vla.ros.side_node import SideNode

pytestmark = pytest.mark.ros
LONG_S, SHORT_S = 0.9, 0.5  # a wait that must end early, and when it must have


@pytest.fixture(params=[True, False], ids=["events", "wait sets"])
def side(request: pytest.FixtureRequest) -> Iterator[tuple[SideNode, Any]]:
    with own_context() as context:
        node = rclpy.create_node("beside", context=context)
        made = SideNode(node, robots=2, events=request.param)
        yield made, node
        made.close()
        node.destroy_node()


def ends_after_s(side: SideNode, timeout_s: float | None) -> float:
    begin_s = time.monotonic()
    side.wait(timeout_s)
    return time.monotonic() - begin_s


def settle(side: SideNode) -> None:
    while ends_after_s(side, 0.1) < 0.1:
        pass


@pytest.mark.parametrize("timeout_s", [None, LONG_S])
def test_whoever_wakes_it_ends_its_wait(side: tuple[SideNode, Any], timeout_s: float | None) -> None:
    made, _ = side
    settle(made)
    threading.Timer(0.1, made.wake).start()
    assert 0.05 < ends_after_s(made, timeout_s) < SHORT_S
    made.wake()  # between two waits
    assert ends_after_s(made, timeout_s) < SHORT_S


def test_a_message_ends_its_wait_and_is_taken(side: tuple[SideNode, Any]) -> None:
    made, node = side
    heard: list[Any] = []

    def on_message(message: Any) -> None:
        made.hear()
        heard.append(message)

    made.node.create_subscription(Empty, "asked", on_message, 10)
    publisher = node.create_publisher(Empty, "asked", 10)
    end_s = time.monotonic() + 20.0
    while not publisher.get_subscription_count():
        assert time.monotonic() < end_s, "the nodes do not find each other"
        made.wait(0.05)
    settle(made)
    threading.Timer(0.1, publisher.publish, [Empty()]).start()
    begin_s = time.monotonic()
    while not made.wait(LONG_S):
        assert time.monotonic() < begin_s + 20.0, "it hears nothing"
    assert time.monotonic() - begin_s < SHORT_S and len(heard) == 1


def test_its_wait_ends_when_the_time_is_over(side: tuple[SideNode, Any]) -> None:
    made, _ = side
    settle(made)
    assert ends_after_s(made, 0.0) < 0.05
    assert 0.1 < ends_after_s(made, 0.15) < SHORT_S
