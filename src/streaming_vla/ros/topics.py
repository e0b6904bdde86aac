"""Counts who publishes a topic."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import rclpy
from rclpy.signals import SignalHandlerOptions

DISCOVERY_S = 1.5


def publishers(namespace: str, topics: Sequence[str]) -> dict[str, int]:
    """Return the number of publishers of each topic, by its full name; takes `DISCOVERY_S`.

    Args:
        namespace: of the robot, absolute; relative topics lie in it.
        topics: names, relative or absolute.
    """
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f"_topics_{os.getpid()}", namespace=namespace, context=context)
    try:
        time.sleep(DISCOVERY_S)
        names = [node.resolve_topic_name(topic) for topic in topics]
        return {name: node.count_publishers(name) for name in names}
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
