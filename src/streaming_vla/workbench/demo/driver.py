"""Conducts episodes from outside the suite: resets the simulated robot, starts, waits, stops and records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rcl_interfaces.msg import Parameter as WireParameter
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from streaming_vla_interfaces import srv

from streaming_vla.machines.events import Mode
from streaming_vla.machines.stops import stop_of
from streaming_vla.ros.base import LATCHED
from streaming_vla.workbench.demo.recording import Counts, Recorder, counted
from streaming_vla.workbench.report.records import EpisodeRecord, Scene

SERVICE_TIMEOUT_S = 20.0  # a reset builds the scene of a task the first time
DIAGNOSTICS_TIMEOUT_S = 2.5
SLICE_S = 0.05

Update = Callable[[EpisodeRecord], None]


class DriverError(RuntimeError):
    """The suite does not do what it was asked; the message is one sentence."""


class Driver:
    """Runs episodes one after the other.

    Args:
        node: client node in the robot's namespace.
        cameras: whose pictures are recorded.
        control_period_s: duration of one action, as the executor has it.
        check: called twenty times a second while waiting; may raise to end the wait (a process has died).
    """

    def __init__(
        self, node: Node, cameras: tuple[str, ...], control_period_s: float, check: Callable[[], None]
    ) -> None:
        self._node = node
        self._check = check
        self._control_period_s = control_period_s
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self.recorder = Recorder(node, cameras)
        self._succeeded = False
        self._succeeded_s = 0.0
        self._counts: Counts = {}  # when the episode before ended
        self._reset = node.create_client(srv.ResetRobot, "reset_robot")
        self._start = node.create_client(srv.StartEpisode, "start_episode")
        self._stop = node.create_client(Trigger, "stop_episode")
        self._setters: dict[str, Any] = {}
        node.create_subscription(Bool, "success", self._on_success, LATCHED)

    def close(self) -> None:
        """Free the executor; the node stays the caller's."""
        self._executor.shutdown()

    def set_parameters(self, node: str, values: Mapping[str, bool | float | int | str]) -> None:
        """Set live parameters of `node`.

        Raises:
            DriverError: refused, with the node's reason.
        """
        if node not in self._setters:
            self._setters[node] = self._node.create_client(SetParameters, f"{node}/set_parameters")
        parameters = [WireParameter(name=name, value=_wire_value(value)) for name, value in values.items()]
        response = self._call(self._setters[node], SetParameters.Request(parameters=parameters))
        for result, name in zip(response.results, values, strict=True):
            if not result.successful:
                raise DriverError(f"node '{node}' refused parameter {name}: {result.reason}")

    def run(
        self,
        mode: str,
        scene: Scene,
        time_limit_s: float,
        update: Update | None = None,
        ends_with_success: bool = True,
    ) -> EpisodeRecord:
        """Run one episode until success, the time limit or the executor's error; return its record.

        Args:
            mode: name of the way the suite is set to run, kept in the record.
            update: called a few times a second with the record so far.
            ends_with_success: False lets the episode go on to the time limit.

        Raises:
            DriverError: a service is missing, refuses or does not answer.
        """
        reset = self._call(self._reset, srv.ResetRobot.Request(task=scene.task, seed=scene.seed))
        if not reset.accepted:
            raise DriverError(f"the robot refused to reset to {scene.task}, seed {scene.seed}: {reset.reason}")
        self._spin_until(
            lambda: not self._succeeded, SERVICE_TIMEOUT_S, "the robot to be without success after a reset"
        )
        if not self._counts:
            self._counts = self._fresh_counts()
        self.recorder.forget()
        begin_s, begun_s = self.recorder.now_s(), time.monotonic()
        started = self._call(self._start, srv.StartEpisode.Request(instruction=reset.instruction))
        if not started.accepted:
            raise DriverError(f"the monitor refused to start an episode: {started.reason}")
        record = EpisodeRecord(
            mode, scene.task, scene.seed, reset.instruction, started.episode, self._control_period_s, begin_s
        )
        self._wait(record, time_limit_s, update, ends_with_success)
        took_s, told_s = time.monotonic() - begun_s, self.recorder.now_s() - begin_s
        self._call(self._stop, Trigger.Request())
        self._spin_for(2 * SLICE_S)  # what is still on the way
        self.recorder.fill(record)
        counts = self._fresh_counts()
        record.counters = counted(self._counts, counts)
        self._counts = counts
        if not self._node.get_clock().ros_time_is_active:  # of the robot alone: what it did not make up for
            told_s = max(0.0, took_s - 0.001 * record.counters.get("sim_robot", {}).get("lost_ms", 0))
        record.pace = told_s / took_s
        return record

    def spin(self, duration_s: float) -> None:
        """Handle messages for `duration_s`."""
        self._spin_for(duration_s)

    def _wait(self, record: EpisodeRecord, time_limit_s: float, update: Update | None, ends_with_success: bool) -> None:
        updated_s = 0.0
        while True:
            now_s = self.recorder.now_s()
            record.end_s = now_s
            states = self.recorder.states(record.number)
            record.success = record.success or self._succeeded
            if record.success and ends_with_success:
                record.end_s = self._succeeded_s
                return
            if states and states[-1].state.mode == Mode.ERROR:
                record.problem = stop_of([at.state for at in states])
                return
            if now_s - record.begin_s >= time_limit_s:
                return
            if update is not None and now_s - updated_s > 0.25:
                record.states = list(states)
                update(record)
                updated_s = now_s
            self._spin_once()

    def _on_success(self, message: Bool) -> None:
        if message.data and not self._succeeded:
            self._succeeded_s = self.recorder.now_s()
        self._succeeded = message.data

    def _fresh_counts(self) -> Counts:
        """Return every node's counts as of now; diagnostics come once a second, so this waits for the next."""
        now_s = self.recorder.now_s()
        deadline = time.monotonic() + DIAGNOSTICS_TIMEOUT_S
        while time.monotonic() < deadline and any(heard < now_s for heard in self.recorder.heard_s.values()):
            self._spin_once()
        return {node: dict(figures) for node, figures in self.recorder.figures.items()}

    def _call(self, client: Any, request: Any) -> Any:
        name = client.srv_name
        self._spin_until(client.service_is_ready, SERVICE_TIMEOUT_S, f"service '{name}' to appear")
        future = client.call_async(request)
        try:
            self._spin_until(future.done, SERVICE_TIMEOUT_S, f"an answer of service '{name}'")
        except DriverError:
            client.remove_pending_request(future)
            raise
        return future.result()

    def _spin_until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise DriverError(f"waited {timeout_s:g} s in vain for {what}")
            self._spin_once()

    def _spin_for(self, duration_s: float) -> None:
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            self._spin_once()

    def _spin_once(self) -> None:
        self._check()
        self._executor.spin_once(timeout_sec=SLICE_S)


def _wire_value(value: bool | float | int | str) -> ParameterValue:
    if isinstance(value, bool):
        return ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=value)
    if isinstance(value, int):
        return ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
    if isinstance(value, float):
        return ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    return ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
