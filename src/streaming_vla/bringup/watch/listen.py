"""Listens to one robot and keeps what is seen of it current; asks its nodes for the parameters that the page needs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from streaming_vla_interfaces import msg as wire

from streaming_vla.bringup.watch.seen import Cache, Context, NodeSeen, SaidLine, Seen
from streaming_vla.options.texts import cut
from streaming_vla.parameters.sections import full_namespace
from streaming_vla.ros import messages
from streaming_vla.ros.middleware import begin

WARN, ERROR = 30, 40  # levels of rcl_interfaces/Log, whose constants are bytes in some distributions
ASK_S = 2.0
HISTORY_S = 2.0  # the log of before is told again to whoever comes later
ASKED = {
    "executor": ("control_period_s",),
    "saliency_monitor": ("mode", "saliency_threshold"),
    "sim_robot": ("real_time_factor",),
}
QUEUED = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
LOGS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Taker = Callable[[str, str, Any], None]


class Listener:
    """The node that hears a robot.

    Args:
        node: made by the caller, in the robot's namespace.
        taker: also gets every message, with its full topic and type; None: nobody.
    """

    def __init__(self, node: Node, taker: Taker | None = None) -> None:
        self.seen = Seen()
        self._node, self._taker = node, taker
        self._namespace = node.get_namespace()
        self._asked_s, self._begin_s = 0.0, time.monotonic()
        self._clients = {name: node.create_client(GetParameters, f"{name}/get_parameters") for name in ASKED}
        self._answers: dict[str, Any] = {}
        self._own_inference = False
        self._hear(wire.ExecutionState, "execution_state", self._on_state)
        self._hear(wire.ObserveRequest, "observe_request", self._on_request)
        self._hear(wire.Context, "context", self._on_context)
        self._hear(wire.KvCacheStats, "kv_cache_stats", self._on_cache)
        self._hear(DiagnosticArray, "/diagnostics", self._on_diagnostics)
        self._hear(Log, "/rosout", self._on_log, LOGS)
        if taker is not None:
            self._hear(wire.Action, "action", lambda message: None)
            self._hear(wire.Observation, "observation", lambda message: None)

    def ask(self) -> None:
        """Ask for parameters when it is time, and take what was answered."""
        for name, answer in list(self._answers.items()):
            if answer.done():
                del self._answers[name]
                values = [parameter_value_to_python(value) for value in answer.result().values]
                known = zip(ASKED[name], values, strict=False)
                self.seen.parameters[name] = {each: value for each, value in known if value is not None}
        now = time.monotonic()
        if now < self._asked_s + ASK_S:
            return
        self._asked_s = now
        for name, client in self._clients.items():
            if (waiting := self._answers.pop(name, None)) is not None:
                client.remove_pending_request(waiting)
            if client.service_is_ready():
                self._answers[name] = client.call_async(GetParameters.Request(names=list(ASKED[name])))

    def _hear(self, kind: type, topic: str, take: Callable[[Any], None], qos: QoSProfile = QUEUED) -> None:
        name, kind_name = self._node.resolve_topic_name(topic), f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"

        def receive(message: Any) -> None:
            if getattr(message, "session", self._namespace) != self._namespace:
                return
            try:
                take(message)
            except ValueError:  # a number that no node of ours sends: the page shows what it knows
                return
            if self._taker is not None:
                self._taker(name, kind_name, message)

        self._node.create_subscription(kind, topic, receive, qos)

    def _on_state(self, message: wire.ExecutionState) -> None:
        self.seen.on_state(messages.execution_state_from(message), time.monotonic())

    def _on_request(self, message: wire.ObserveRequest) -> None:
        self.seen.on_request(messages.request_from(message), time.monotonic())

    def _on_context(self, message: wire.Context) -> None:
        self.seen.context = Context(message.prefill_s, message.queued_s, message.flow_step_s, message.tokens)

    def _on_cache(self, message: wire.KvCacheStats) -> None:
        self.seen.cache = Cache(**{name: getattr(message, name) for name in Cache.__dataclass_fields__})

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now = time.monotonic()
        for status in message.status:
            namespace, _, name = status.name.rpartition("/")
            own = (namespace or "/") == self._namespace
            self._own_inference |= own and name == "inference"
            # one that serves several robots may stand elsewhere
            shared = name == "inference" and not self._own_inference and self.seen.context is not None
            if own or shared:
                figures = {item.key: item.value for item in status.values}
                self.seen.on_node(name, NodeSeen(now, status.level[0], cut(status.message), figures))

    def _on_log(self, message: Log) -> None:
        *levels, node = message.name.split(".")
        if message.level < WARN or full_namespace("/".join(levels)) != self._namespace:
            return
        now = time.monotonic()
        heard_s = now if now > self._begin_s + HISTORY_S else -math.inf
        error = message.level >= ERROR
        self.seen.said.append(SaidLine(heard_s, node, error, cut(message.msg)))


@contextmanager
def listening(namespace: str, taker: Taker | None = None) -> Iterator[tuple[Listener, Callable[[float], None]]]:
    """Yield a listener to the robot of a namespace, and what lets it listen for some seconds."""
    context = rclpy.Context()
    begin(context)
    node = rclpy.create_node(f"_watch_{os.getpid()}", namespace=full_namespace(namespace), context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    listener = Listener(node, taker)

    def listen(duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while (left_s := end_s - time.monotonic()) > 0.0:
            executor.spin_once(timeout_sec=left_s)
        listener.ask()

    try:
        yield listener, listen
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
