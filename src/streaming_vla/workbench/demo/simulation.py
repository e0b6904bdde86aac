"""The suite with the simulated robot on a ROS domain of its own, and a driver that conducts its episodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from streaming_vla.bringup import graph
from streaming_vla.bringup.starter import Suite, SuiteError
from streaming_vla.parameters.load import read
from streaming_vla.ros.middleware import begin
from streaming_vla.workbench.demo.domain import reserved_domain
from streaming_vla.workbench.demo.driver import Driver, DriverError
from streaming_vla.workbench.demo.settings import settings_for
from streaming_vla.workbench.robots import ROBOTS, SimulatedArm


@dataclass(frozen=True)
class Simulation:
    """What runs."""

    driver: Driver
    suite: Suite

    def pids(self) -> dict[str, int]:
        """Return the process of each node; one that is being respawned is left out."""
        found: dict[str, int] = {}
        for node in graph.nodes(simulated=True):
            try:
                found[node.name] = self.suite.node_process(node.name).pid
            except KeyError:
                continue
        return found

    def respawns(self) -> dict[str, int]:
        """Return how often each node has been started again."""
        return {node.name: self.suite.respawns(node.name) for node in graph.nodes(simulated=True)}


@contextmanager
def driven_simulation(
    log_folder: Path,
    cameras: tuple[str, ...] | None = None,
    profile: str = "",
    params_file: Path | None = None,
    simulated_clock: bool = False,
    robot: SimulatedArm = ROBOTS["metaworld"],
    model: str = "",
) -> Iterator[Simulation]:
    """Start every node and yield what runs; stop everything at the end.

    This process's own ROS traffic goes to the same domain, and to this machine only.

    Args:
        log_folder: gets one file per node.
        cameras: whose pictures the driver records; None: all of the observer's.
        params_file: ROS parameter file of the nodes; None: their defaults.
        profile, simulated_clock, robot, model: see settings_for.

    Raises:
        DriverError: a node cannot start; the message is its sentence.
    """
    suite_options = read(params_file)
    settings, period_s = settings_for(robot, suite_options, profile, simulated_clock, model)
    cameras = suite_options.observer.cameras if cameras is None else cameras
    nodes = graph.nodes(simulated=True)
    with running_suite(nodes, settings, params_file, log_folder, "driver", simulated_clock) as (suite, node, check):
        driver = Driver(node, cameras, period_s, check)
        try:
            yield Simulation(driver, suite)
        finally:
            driver.close()


@contextmanager
def running_suite(
    nodes: tuple[graph.GraphNode, ...],
    settings: graph.Settings,
    params_file: Path | None,
    log_folder: Path,
    client: str,
    simulated_clock: bool,
) -> Iterator[tuple[Suite, Node, Callable[[], None]]]:
    """Start nodes and a client node in a ROS domain of their own, which only this machine reaches; stop all at the end.

    Yields the suite, the client, and what raises SuiteError when a node has died.

    Args:
        log_folder: gets one file per node.
        client: name of the client node.
        simulated_clock: the client follows the robot's clock.

    Raises:
        DriverError: a node cannot start, or has died; the message is its sentence.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    with reserved_domain() as domain, (log_folder / "starter.log").open("w", encoding="utf-8") as log:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        suite = Suite(
            nodes,
            params_file=params_file,
            settings=settings,
            log_folder=log_folder,
            say=lambda line: print(line, file=log, flush=True),
        )

        def check() -> None:
            if suite.failure:
                raise SuiteError(suite.failure)

        try:
            with suite, _client(client, suite.namespace, simulated_clock) as node:
                yield suite, node, check
        except SuiteError as error:
            raise DriverError(f"{error} (logs in {log_folder})") from error


@contextmanager
def _client(name: str, namespace: str, simulated_clock: bool) -> Iterator[Node]:
    context = rclpy.Context()
    begin(context)
    clock = Parameter("use_sim_time", value=simulated_clock)
    node = rclpy.create_node(name, namespace=namespace, context=context, parameter_overrides=[clock])
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
