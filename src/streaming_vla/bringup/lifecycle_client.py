"""Drives lifecycle nodes of other processes to active, without waiting for any of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from enum import Enum
from typing import Any

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher
from streaming_vla_interfaces import msg as wire

from streaming_vla.machines.events import NodesAway
from streaming_vla.ros.base import LATCHED
from streaming_vla.ros.messages import nodes_away_to
from streaming_vla.ros.middleware import begin
from streaming_vla.ros.topics import AWAY_TOPIC

DISCOVERY_S = 1.0
ASK_PERIOD_S = 0.1
ASK_AGAIN_S = 0.25  # one that is not answered yet is kept: the node may be busy, or another may have got it
QUESTIONS_KEPT = 40
RESEND_S = 2.0
NEXT_TRANSITION = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}


class Progress(Enum):
    """How far a node is."""

    COMING_UP = "coming up"
    ACTIVE = "active"
    REFUSED = "refused"


class LifecycleClient:
    """A ROS node of its own context that asks lifecycle nodes; for one thread.

    Args:
        namespace: of the nodes, absolute.
        enclave: of this node, where DDS security is on.
    """

    def __init__(self, namespace: str, enclave: str = "/") -> None:
        self._namespace = namespace
        self._context = rclpy.Context()
        begin(self._context, ["--ros-args", "--enclave", enclave])
        self._node = rclpy.create_node(
            f"_streaming_vla_starter_{os.getpid()}", namespace=namespace, context=self._context
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients: dict[str, tuple[Client, Client]] = {}
        self._away: dict[str, Publisher[Any]] = {}  # by session

    def taken(self, names: set[str]) -> set[str]:
        """Return which of the node names exist in the namespace already; takes `DISCOVERY_S` when none does."""
        deadline = time.monotonic() + DISCOVERY_S
        while (left := deadline - time.monotonic()) > 0:
            self.spin(min(left, ASK_PERIOD_S))
            nodes = self._node.get_node_names_and_namespaces()
            if found := {name for name, namespace in nodes if namespace == self._namespace and name in names}:
                return found
        return set()

    def bring_up(self, name: str) -> BringUp:
        """Return the driver of a node whose process has just been started."""
        if name not in self._clients:
            # Kept for the next process of the node: one that is known before it starts misses no answer.
            self._clients[name] = (
                self._node.create_client(GetState, f"{name}/get_state"),
                self._node.create_client(ChangeState, f"{name}/change_state"),
            )
        return BringUp(*self._clients[name])

    def tell_away(self, away: NodesAway, sessions: Sequence[str]) -> None:
        """Tell every robot which nodes are away."""
        for session in sessions:
            if session not in self._away:
                topic = f"{session.rstrip('/')}/{AWAY_TOPIC}"
                self._away[session] = self._node.create_publisher(wire.NodesAway, topic, LATCHED)
            stamp = self._node.get_clock().now().to_msg()
            self._away[session].publish(nodes_away_to(away, session, stamp))

    def spin(self, timeout_s: float) -> None:
        """Take answers for at most `timeout_s`; returns after the first."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)


class BringUp:
    """Asks one node for its state and for the next transition until it is active.

    The state that the node answers decides, not the reply to a transition: services of a process that has just
    crashed stay in the graph for seconds, and a request that went to them is never answered.
    """

    def __init__(self, get_state: Client, change_state: Client) -> None:
        self._get_state = get_state
        self._change_state = change_state
        self._questions: list[Any] = []  # that are not answered, the oldest first
        self._asked_s = float("-inf")
        self._change: Any = None
        self._changed_s = float("-inf")
        self._changed_from = State.PRIMARY_STATE_UNKNOWN

    def step(self, now: float) -> Progress:
        """Take the newest answer and ask again; `now` is monotonic seconds."""
        answered = [question for question in self._questions if question.done()]
        if answered:
            self._forget(len(self._questions))
            return self._act(answered[-1].result().current_state.id, now)
        waits_for_s = ASK_AGAIN_S if self._questions else ASK_PERIOD_S
        if now - self._asked_s >= waits_for_s and self._get_state.service_is_ready():
            self._questions.append(self._get_state.call_async(GetState.Request()))
            self._forget(len(self._questions) - QUESTIONS_KEPT)
            self._asked_s = now
        return Progress.COMING_UP

    def _forget(self, count: int) -> None:
        """Wait no more for the oldest questions."""
        for question in self._questions[: max(0, count)]:
            self._get_state.remove_pending_request(question)
        del self._questions[: max(0, count)]

    def _act(self, state: int, now: float) -> Progress:
        if state == State.PRIMARY_STATE_ACTIVE:
            return Progress.ACTIVE
        if state == State.PRIMARY_STATE_FINALIZED:
            return Progress.REFUSED
        if state not in NEXT_TRANSITION:
            return Progress.COMING_UP
        if self._change is not None and state == self._changed_from:
            if self._change.done():
                return Progress.COMING_UP if self._change.result().success else Progress.REFUSED
            if now - self._changed_s < RESEND_S:
                return Progress.COMING_UP
            self._change_state.remove_pending_request(self._change)
        transition = Transition(id=NEXT_TRANSITION[state])
        self._change = self._change_state.call_async(ChangeState.Request(transition=transition))
        self._changed_s, self._changed_from = now, state
        return Progress.COMING_UP
