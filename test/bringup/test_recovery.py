"""Nodes that hang, or leave the active state, under the starter: told to the executor, killed, started again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from streaming_vla_interfaces.msg import NodesAway

from streaming_vla.bringup.graph import GraphNode
from streaming_vla.bringup.heartbeats import HUNG_S
from streaming_vla.bringup.starter import Suite
from streaming_vla.ros.base import LATCHED
from streaming_vla.ros.middleware import begin
from streaming_vla.ros.topics import AWAY_TOPIC
from streaming_vla.workbench.demo.domain import reserved_domain

pytestmark = pytest.mark.ros

TOYS = Path(__file__).parent / "toys"
NODES = tuple(GraphNode(name, "toy_node") for name in ("first", "second"))
PATIENCE_S = 60.0  # a busy machine


class Listener:
    """Hears which nodes are away; `ask` deactivates one as an operator would."""

    def __init__(self, namespace: str) -> None:
        self.context = rclpy.Context()
        begin(self.context)
        self.node = rclpy.create_node("listener", namespace=namespace, context=self.context)
        self.told: list[tuple[str, ...]] = []
        self.away_s: list[float] = []
        self.node.create_subscription(NodesAway, AWAY_TOPIC, self._hear, LATCHED)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self.executor.spin)
        self._thread.start()

    def _hear(self, message: NodesAway) -> None:
        self.told.append(tuple(message.nodes))
        self.away_s += list(message.away_s)

    def deactivate(self, name: str) -> None:
        client = self.node.create_client(ChangeState, f"{name}/change_state")
        assert client.wait_for_service(PATIENCE_S)
        client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE)))

    def close(self) -> None:
        self.executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@contextmanager
def running(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> Iterator[tuple[Suite, Listener]]:
    monkeypatch.setenv("PYTHONPATH", f"{TOYS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Fast DDS reads a profile once in a process: where tests before this one had nodes, ours would come too late
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")
    with reserved_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        with Suite(NODES, namespace="/arm", say=lines.append) as suite:
            listener = Listener("/arm")
            try:
                wait_for(lambda: () in listener.told, "word that nobody is away")
                yield suite, listener
            finally:
                listener.close()


def wait_for(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def stopped(suite: Suite, listener: Listener, name: str) -> Popen[bytes]:
    """Stop a node's process, wait until it is told to be away, and return it."""
    process = suite.node_process(name)
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: (name,) in listener.told, "word that it is away")
    return process


def test_a_stopped_process_is_told_killed_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with running(monkeypatch, lines) as (suite, listener):
        process = stopped(suite, listener, "second")
        assert process.poll() is None, "told before it is killed"
        assert not suite.is_up
        wait_for(lambda: process.poll() == -signal.SIGKILL, "its end")
        wait_for(lambda: suite.is_up, "the suite to be up again")
        wait_for(lambda: listener.told[-1] == (), "word that nobody is away")
        assert suite.respawns("second") == 1 and suite.respawns("first") == 0
        assert max(listener.away_s) >= HUNG_S, "told again while it is away, with its time"
    assert any("node 'second': hangs, it has said nothing for 4." in line for line in lines), lines
    assert any(line.startswith("second: recovered, ") for line in lines), lines


def test_a_process_that_was_stopped_for_a_while_is_left_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with running(monkeypatch, lines) as (suite, listener):
        process = stopped(suite, listener, "first")
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: listener.told[-1] == (), "word that it is back")
        wait_for(lambda: suite.is_up, "the suite to be up again")
        assert suite.respawns("first") == 0 and process.poll() is None
    assert any(line.startswith("first: recovered, active again after") for line in lines), lines


def test_a_node_that_is_deactivated_behind_the_starters_back_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with running(monkeypatch, lines) as (suite, listener):
        listener.deactivate("second")
        wait_for(lambda: ("second",) in listener.told, "word that it is away")
        wait_for(lambda: suite.respawns("second") == 1, "another start")
        wait_for(lambda: suite.is_up, "the suite to be up again")
    assert any("has been inactive for 4." in line for line in lines), lines


def test_a_killed_node_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with running(monkeypatch, lines) as (suite, listener):
        suite.node_process("first").kill()
        wait_for(lambda: ("first",) in listener.told, "word that it is away")
        wait_for(lambda: suite.is_up and suite.respawns("first") == 1, "the suite to be up again")
        wait_for(lambda: listener.told[-1] == (), "word that nobody is away")
