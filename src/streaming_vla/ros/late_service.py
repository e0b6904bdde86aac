"""A service whose answer comes later, from any thread; meanwhile the node's thread goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rclpy.node import Node


def serve_late(node: Node, service_type: type, name: str, take: Callable[[Any, Any], Any]) -> None:
    """Offer a service.

    rclpy would send at once what a callback returns. An awaited callback could wait, but takes a round of the executor
    more, and not every executor of rclpy knows it.

    Args:
        node: that offers it.
        service_type: of the service.
        name: of the service.
        take: gets a request and its empty response; returns the response, or a Future of it.
    """
    service = node.create_service(service_type, name, take)
    send = service.send_response

    def send_when_done(answer: Any, header: Any) -> None:
        if isinstance(answer, Future):
            answer.add_done_callback(lambda done: send(done.result(), header))
        else:
            send(answer, header)

    service.send_response = send_when_done  # type: ignore[method-assign]
