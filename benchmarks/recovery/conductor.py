"""The suite with the simulated robot on a ROS domain of its own, and what is heard of it with monotonic times."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.bringup import graph
from streaming_vla.bringup.processes import RespawnPolicy
from streaming_vla.bringup.starter import Suite
from streaming_vla.machines.events import Mode
from streaming_vla.ros.base import reliable
from streaming_vla.ros.middleware import begin
from streaming_vla.workbench.demo.domain import reserved_domain

HERE = Path(__file__).parent
NODES = ("observer", "inference", "generator", "executor", "saliency_monitor")
TASK, INSTRUCTION = "drawer-open", "open the drawer"
ANSWER_S = 10.0
FIRST_SAID = {  # the topic by which a node that is back is first heard in an episode
    "observer": (wire.Observation, "observation"),
    "inference": (wire.Context, "context"),
    "generator": (wire.Action, "action"),
    "executor": (wire.ExecutionState, "execution_state"),
    "saliency_monitor": (wire.ObserveRequest, "observe_request"),
}
# every fault is a node's first: the delay before another start does not grow
FORGETFUL = RespawnPolicy(limit=10**6, window_s=0.5)


class Conductor:
    """Begins and ends episodes, and keeps what the nodes say.

    Attributes:
        suite: that runs.
        states: (monotonic seconds, ExecutionState) in order.
        said: when each node was heard on its topic of FIRST_SAID.
        lines: (monotonic seconds, line) that starter and nodes have printed.
        figures: newest figures of each node's diagnostics.
    """

    def __init__(self, suite: Suite, lines: list[tuple[float, str]]) -> None:
        self.suite, self.lines = suite, lines
        self.states: list[tuple[float, Any]] = []
        self.said: dict[str, list[float]] = {name: [] for name in NODES}
        self.figures: dict[str, dict[str, str]] = {}
        self._context = rclpy.Context()
        begin(self._context)
        self.node = rclpy.create_node("conductor", namespace=suite.namespace, context=self._context)
        for name, (kind, topic) in FIRST_SAID.items():
            self.node.create_subscription(kind, topic, self._hear(name), reliable(100))
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable(50))
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def _hear(self, name: str) -> Callable[[Any], None]:
        def hear(message: Any) -> None:
            now = time.monotonic()
            self.said[name].append(now)
            if name == "executor":
                self.states.append((now, message))

        return hear

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            self.figures[status.name.rsplit("/", 1)[-1]] = {pair.key: pair.value for pair in status.values}

    @property
    def mode(self) -> int | None:
        """What the executor does, as it said last."""
        return int(self.states[-1][1].mode) if self.states else None

    @property
    def simulation_pace(self) -> float | None:
        """How fast the simulation goes of what was asked, 1 where the machine keeps up; None: not known."""
        figures = self.figures.get("sim_robot", {})
        try:
            pace = float(figures["achieved_real_time_factor"]) / float(figures["asked_real_time_factor"])
        except KeyError:
            return None
        return round(pace, 3)

    def begin_episode(self) -> bool:
        """Begin one and wait until the robot moves; False when it does not."""
        request = srv.StartEpisode.Request(instruction=INSTRUCTION)
        begun = self._call(srv.StartEpisode, "start_episode", request, 4)
        return bool(begun and begun.accepted) and self.wait(lambda: self.mode == Mode.PLAYING, 30.0)

    def end_episode(self) -> None:
        """End the one that runs and forget what was heard in it."""
        self._call(Trigger, "stop_episode", Trigger.Request(), 2)
        self.wait(lambda: self.mode in (Mode.IDLE, None), 2.0)
        for heard in (self.states, *self.said.values()):
            heard.clear()

    def reset_robot(self) -> None:
        """Put the scene in place."""
        self._call(srv.ResetRobot, "reset_robot", srv.ResetRobot.Request(task=TASK, seed=10_000), 3)

    def pids(self) -> dict[str, int]:
        """Return the process of each node."""
        return {name: self.suite.node_process(name).pid for name in NODES}

    def rss_mb(self) -> dict[str, float]:
        """Return the resident memory of each node."""
        return {name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in self.pids().items()}

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `done`, at most `timeout_s`; return whether it is."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() >= deadline or self.suite.failure:
                return False
            time.sleep(0.01)
        return True

    def _call(self, kind: Any, name: str, request: Any, tries: int) -> Any:
        """Ask a service, again when a process that has died got the question."""
        client = self.node.create_client(kind, name)
        try:
            for _ in range(tries):
                if not self.wait(client.service_is_ready, ANSWER_S):
                    continue
                future = client.call_async(request)
                if self.wait(future.done, ANSWER_S):
                    return future.result()
                client.remove_pending_request(future)
            return None
        finally:
            self.node.destroy_client(client)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


@contextmanager
def conducted(
    real_time_factor: float, settings: Mapping[str, Mapping[str, graph.Setting]] | None = None
) -> Iterator[Conductor]:
    """Start every node, stamped, and yield who conducts them.

    Args:
        real_time_factor: of the simulated robot; so small that the machine keeps up.
        settings: parameters per node.
    """
    lines: list[tuple[float, str]] = []
    merged: dict[str, dict[str, graph.Setting]] = {name: dict(values) for name, values in (settings or {}).items()}
    merged.setdefault("sim_robot", {}).update({"real_time_factor": real_time_factor, "task": TASK})
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    nodes = tuple(replace(node, module="stamped_node") for node in graph.nodes(simulated=True))
    with reserved_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        say = lambda line: lines.append((time.monotonic(), line))  # noqa: E731
        with Suite(nodes, settings=merged, say=say, respawn=FORGETFUL) as suite:
            conductor = Conductor(suite, lines)
            try:
                yield conductor
            finally:
                conductor.close()
