"""The floor of the action's overhead: the same two messages between two nodes that do nothing else.

python benchmarks/ros_overhead/echo.py        # prints milliseconds from a request to its answer
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import rclpy
from rclpy.node import Node
from streaming_vla_interfaces.msg import GeneratedAction, GenerateRequest

from streaming_vla.ros.base import reliable
from streaming_vla.ros.executors import Spinner, make_spinner
from streaming_vla.ros.priority import raise_priority
from streaming_vla.workbench.demo.domain import reserved_domain

TIMES = 400
REST_S = 0.05  # between two: a control period, in which caches and cores cool down
PRIORITY = 10
ANSWERS = "answers"  # argument of the process that answers


def echo_ms(times: int = TIMES) -> list[float]:
    """Return how long an answer took, each after a rest of a control period, milliseconds."""
    with reserved_domain() as domain:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        answers = subprocess.Popen([sys.executable, __file__, ANSWERS], env=environment)
        try:
            asks = [sys.executable, __file__, str(times)]
            return list(json.loads(subprocess.run(asks, env=environment, stdout=subprocess.PIPE, check=True).stdout))
        finally:
            answers.terminate()
            answers.wait()


def _begin(name: str) -> tuple[Node, Spinner]:
    rclpy.init()
    node = rclpy.create_node(name)
    spinner = make_spinner(node)
    return node, spinner


def _answer() -> None:
    node, spinner = _begin("answers")
    publisher = node.create_publisher(GeneratedAction, "generated_action", reliable(50))

    def on_request(request: GenerateRequest) -> None:
        publisher.publish(GeneratedAction(step=request.step, values=[0.0] * 4))

    node.create_subscription(GenerateRequest, "generate", on_request, reliable(50))
    raise_priority(PRIORITY)
    while True:
        spinner.spin_for(0.1)


def _ask(times: int) -> list[float]:
    node, spinner = _begin("asks")
    came: list[tuple[int, float]] = []
    node.create_subscription(
        GeneratedAction, "generated_action", lambda a: came.append((a.step, time.monotonic())), reliable(50)
    )
    publisher = node.create_publisher(GenerateRequest, "generate", reliable(50))
    raise_priority(PRIORITY)
    while not (publisher.get_subscription_count() and node.count_publishers("generated_action")):
        spinner.spin_for(0.1)
    time.sleep(1.0)  # both ways are found
    taken = []
    for step in range(times):
        time.sleep(REST_S)
        asked_s = time.monotonic()
        publisher.publish(GenerateRequest(step=step))
        while not (came and came[-1][0] == step) and time.monotonic() < asked_s + 1.0:
            spinner.spin_for(0.1)
        if came and came[-1][0] == step:
            taken.append(1000.0 * (came[-1][1] - asked_s))
    return taken


if __name__ == "__main__":
    if sys.argv[1:] == [ANSWERS]:
        _answer()
    elif sys.argv[1:]:
        print(json.dumps(_ask(int(sys.argv[1]))))
    else:
        print(echo_ms())
