"""Builds the launch descriptions of launch/*.launch.py from the node graph. Needs `launch` and `launch_ros`."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction
from launch.events import matches_action
from launch.events.process import ProcessExited, ShutdownProcess
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.utilities import prefix_namespace

from streaming_vla.bringup import graph
from streaming_vla.bringup.security.policy import enclave as enclave_of
from streaming_vla.parameters import load
from streaming_vla.ros.exit_codes import CONFIG_ERROR
from streaming_vla.ros.reach import local_unless_chosen

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
    """Return the nodes and what is to be said of them; here the values of the arguments are known."""
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
    enclaves = given["enclave"] or namespace
    made = [
        _node(node, simulated, switches, enclave_of(enclaves, node.name), own) for node in graph.nodes(simulated, part)
    ]
    return [*([LogInfo(msg=told)] if told else []), *made]


def _node(
    node: graph.GraphNode, simulated: bool, switches: dict[str, bool], enclave: str, environment: dict[str, str]
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
            {**switches, **settings},
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level"), "--enclave", enclave],
        additional_env=environment,
        on_exit=_stay_down_when_misconfigured,
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
