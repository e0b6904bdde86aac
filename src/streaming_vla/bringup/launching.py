"""Builds the launch descriptions of launch/*.launch.py from the node graph. Needs `launch` and `launch_ros`."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ament_index_python.packages import get_package_share_directory
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.events.process import ProcessExited, ProcessStarted, ShutdownProcess
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.ros_adapters import get_ros_node
from launch_ros.utilities import prefix_namespace

from streaming_vla.bringup import graph
from streaming_vla.bringup.security.policy import enclave as enclave_of
from streaming_vla.bringup.supervision import LOOK_S, Supervision
from streaming_vla.parameters import load
from streaming_vla.ros.exit_codes import CONFIG_ERROR
from streaming_vla.ros.reach import local_unless_chosen

if TYPE_CHECKING:
    from streaming_vla.machines.events import NodesAway

RESPAWN_DELAY_S = 1.0
RESPAWN_LIMIT = 5  # a node that crashes again and again stays down, and the executor stops the robot
DEFAULT_PARAMS_FILE = Path("config") / "streaming_vla.yaml"


def description(simulated: bool) -> LaunchDescription:
    """Return the launch description of the suite, with the simulated robot or without.

    Launch arguments are for deployment only; everything else is in the parameter file.
    """
    share = Path(get_package_share_directory(graph.PACKAGE))
    arguments = [
        DeclareLaunchArgument(
            "namespace", default_value="", description="Namespace of the robot; empty for the root namespace."
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(share / DEFAULT_PARAMS_FILE),
            description="ROS parameter file of all nodes; copy the default one and edit it.",
        ),
        DeclareLaunchArgument(
            "nodes",
            default_value=graph.Part.all.value,
            choices=[part.value for part in graph.Part],
            description="robot: all nodes but inference, which runs elsewhere; inference: that one alone.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="",
            choices=["", "true", "false"],
            description="Stamp messages with the time of topic /clock; empty: as the parameter file says.",
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            choices=["true", "false"],
            description="Configure and activate every node; false leaves that to a lifecycle manager.",
        ),
        DeclareLaunchArgument(
            "enclave",
            default_value="",
            description="In front of the nodes' security enclaves, as `streaming-vla security` takes it; empty: the "
            "namespace.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Least severe message that the nodes print.",
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_nodes, args=[simulated])])


def _nodes(context: LaunchContext, simulated: bool) -> list[Action]:
    """Return the nodes, what watches them and what is to be said; here the values of the arguments are known."""
    names = ("params_file", "namespace", "use_sim_time", "autostart", "enclave")
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    # launch_ros only warns about a missing file and would run the nodes with their defaults
    pushed = context.launch_configurations.get("ros_namespace")  # of PushRosNamespace around this launch file
    namespace = prefix_namespace(pushed, given["namespace"]) or "/"
    load.read(Path(given["params_file"]), namespace)
    switches = {name: given[name] == "true" for name in ("use_sim_time", "autostart") if given[name]}
    part = graph.Part(LaunchConfiguration("nodes").perform(context))
    environment = dict(context.environment)
    told = local_unless_chosen(environment)
    own = {name: value for name, value in environment.items() if name not in context.environment}
    said: list[Action] = [LogInfo(msg=told)] if told else []
    started = graph.nodes(simulated, part)
    enclaves = {node.name: enclave_of(given["enclave"] or namespace, node.name) for node in started}
    if not switches["autostart"]:  # a lifecycle manager watches them, with bonds or as it likes
        return [*said, *(_node(node, simulated, switches, enclaves[node.name], own) for node in started)]
    supervisor = _Supervisor(context, namespace, started)
    for node in started:
        action = _node(node, simulated, switches, enclaves[node.name], own, supervisor)
        on_start = partial(supervisor.on_start, node.name)
        said += [action, RegisterEventHandler(OnProcessStart(target_action=action, on_start=on_start))]
    return said


class _Supervisor:
    """Hangs a supervision into launch: its loop, its events, its ROS node."""

    def __init__(self, context: LaunchContext, namespace: str, nodes: tuple[graph.GraphNode, ...]) -> None:
        self._context, self._namespace = context, namespace
        self._folder = TemporaryDirectory(prefix="streaming_vla_")
        self._supervision = Supervision(nodes, Path(self._folder.name), self._tell, get_logger("supervision").warning)
        self.environment = self._supervision.environment
        self._publisher: Any = None
        self._looks = False

    def on_start(self, name: str, event: ProcessStarted, context: LaunchContext) -> None:
        """A process has been started, for the first time or again."""
        self._supervision.started(name, event.pid, time.monotonic())
        if not self._looks:
            self._looks = True
            self._tell(self._supervision.nobody)  # whoever listens finds the publisher before it is needed
            self._look()

    def on_exit(self, name: str, event: ProcessExited, context: LaunchContext) -> list[Action] | None:
        """A process has ended."""
        self._supervision.ended(name, time.monotonic())
        return _stay_down_when_misconfigured(event, context)

    def _look(self) -> None:
        if self._context.is_shutdown:
            self._supervision.close()
            return
        self._supervision.look(time.monotonic())
        self._context.asyncio_loop.call_later(LOOK_S, self._look)

    def _tell(self, away: NodesAway) -> None:
        # a launch file that is only looked at, or whose nodes never start, needs no ROS
        from streaming_vla_interfaces import msg as wire

        from streaming_vla.ros.base import LATCHED
        from streaming_vla.ros.messages import nodes_away_to
        from streaming_vla.ros.topics import AWAY_TOPIC

        node = get_ros_node(self._context)
        if self._publisher is None:
            topic = f"{self._namespace.rstrip('/')}/{AWAY_TOPIC}"
            self._publisher = node.create_publisher(wire.NodesAway, topic, LATCHED)
        self._publisher.publish(nodes_away_to(away, self._namespace, node.get_clock().now().to_msg()))


def _node(
    node: graph.GraphNode,
    simulated: bool,
    switches: dict[str, bool],
    enclave: str,
    environment: dict[str, str],
    supervisor: _Supervisor | None = None,
) -> Node:
    settings = graph.SIMULATED_SETTINGS.get(node.name, {}) if simulated else {}
    return Node(
        package=graph.PACKAGE,
        executable=node.name,
        name=node.name,
        namespace=LaunchConfiguration("namespace"),
        # `autostart` rather than a lifecycle manager: a respawned process then activates itself.
        parameters=[
            LaunchConfiguration("params_file"),
            {**settings, **switches},
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level"), "--enclave", enclave],
        on_exit=partial(supervisor.on_exit, node.name) if supervisor else _stay_down_when_misconfigured,
        additional_env={**environment, **(supervisor.environment(node.name) if supervisor else {})},
        respawn=True,
        respawn_delay=RESPAWN_DELAY_S,
        respawn_max_retries=RESPAWN_LIMIT,
        output="screen",
    )


def _stay_down_when_misconfigured(event: ProcessExited, context: LaunchContext) -> list[Action] | None:
    """End the respawning of a node that refuses its configuration: it would refuse it every time."""
    if event.returncode != CONFIG_ERROR:
        return None
    # while the delay of the respawn runs, this ends it: the process itself is gone
    return [
        LogInfo(msg=f"{event.process_name} is not started again: correct what it names, then launch anew"),
        EmitEvent(event=ShutdownProcess(process_matcher=matches_action(event.action))),
    ]
