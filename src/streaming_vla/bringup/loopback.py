"""A message to another process and back: shows that DDS works on this machine. `python -m` runs the other process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from streaming_vla.ros.middleware import begin

PING, PONG = "_streaming_vla_ping", "_streaming_vla_pong"
PERIOD_S = 0.1
END_TIMEOUT_S = 5.0  # DDS may hang while it is taken down; nothing of the other process is worth waiting for


@contextmanager
def round_trip_s(timeout_s: float) -> Iterator[float | None]:
    """Give the seconds of the fastest of three round trips, or None when none came back in time."""
    context = rclpy.Context()
    begin(context)
    executor = SingleThreadedExecutor(context=context)
    node = Node(f"_loopback_{os.getpid()}", context=context)
    executor.add_node(node)
    trips_s: list[float] = []
    token = f"{os.getpid()} {time.monotonic_ns()}"

    def on_pong(message: String) -> None:
        sent_token, _, sent_s = message.data.rpartition(" ")
        if sent_token == token:
            trips_s.append(time.monotonic() - float(sent_s))

    node.create_subscription(String, PONG, on_pong, 10)
    pings = node.create_publisher(String, PING, 10)
    node.create_timer(PERIOD_S, lambda: pings.publish(String(data=f"{token} {time.monotonic():.9f}")))
    other = subprocess.Popen([sys.executable, "-m", __name__])
    deadline = time.monotonic() + timeout_s
    while len(trips_s) < 3 and time.monotonic() < deadline and other.poll() is None:
        executor.spin_once(timeout_sec=PERIOD_S)
    yield min(trips_s, default=None)
    _end(other)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _echo() -> None:
    """Answer until SIGINT or SIGTERM: rclpy's own handlers would close the middleware under a running wait."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopping.append(number))
    begin()
    node = Node(f"_loopback_echo_{os.getpid()}")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    pongs = node.create_publisher(String, PONG, 10)
    node.create_subscription(String, PING, pongs.publish, 10)
    while not stopping:
        executor.spin_once(timeout_sec=PERIOD_S)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    _echo()
