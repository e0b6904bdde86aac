"""Keeps a request to one of rclpy's own services (parameters, lifecycle) from ending the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node

from streaming_vla.options.texts import cut

Answer = Callable[[Any, Any], Any]


def guard_services(node: Node, refused: Callable[[str, str], None]) -> None:
    """Let every service that `node` has by now refuse what its callback fails at.

    rclpy raises where a request makes no sense to it (a parameter of a type that does not exist, a transition without
    a number), and whatever a callback raises ends the process. Our own services come later and are not touched.

    Args:
        node: whose services they are.
        refused: gets a word to count by and a sentence.
    """
    for service in node.services:
        service.callback = _guarded(service.callback, service.srv_name, refused)


def _guarded(answer: Answer, name: str, refused: Callable[[str, str], None]) -> Answer:
    def respond(request: Any, response: Any) -> Any:
        try:
            return answer(request, response)
        except Exception as error:
            sentence = cut(f"request to '{name}' refused: {' '.join(str(error).split()) or type(error).__name__}")
            refused("malformed_request", sentence)
            return _refusal(request, response, sentence)

    return respond


def _refusal(request: Any, response: Any, reason: str) -> Any:
    """Return the response that says so; parameters in front of the one that failed keep their results."""
    result = SetParametersResult(successful=False, reason=reason)
    if isinstance(request, SetParameters.Request):
        response.results = [*response.results, *[result] * (len(request.parameters) - len(response.results))]
    elif isinstance(request, SetParametersAtomically.Request):
        response.result = result
    return response
