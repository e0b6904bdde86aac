"""The ends of every process of one robot: topics, services and actions, by the parameters that name them.

What is written here is allowed, and nothing else is: a test compares it with the live graph. Names are as nodes give
them: relative ones lie in the namespace, "~" is the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streaming_vla.bringup import graph
from streaming_vla.machines.executor_options import PREVIEW
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.parameters.sections import full_namespace
from streaming_vla.ros.topics import AWAY_TOPIC, resolved_session

STARTER, DRIVERS, OPERATOR = "starter", "drivers", "operator"
ANYTHING = "/*"  # of names that come as the graph grows; matches any number of levels
PARAMETER_SERVICES = (
    "describe_parameters",
    "get_parameter_types",
    "get_parameters",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
    "get_type_description",
)
LIFECYCLE_SERVICES = (
    "change_state",
    "get_state",
    "get_available_states",
    "get_available_transitions",
    "get_transition_graph",
)
NODE_TOPICS = ("/rosout", "/parameter_events")
ACTION, SUCCESS = "execute_instruction", "success"


@dataclass(frozen=True)
class Ends:
    """What one process may do in the graph.

    Args:
        name: of its enclave within the robot's; of a node of the suite the node's.
        node: name of the ROS node, for "~"; "*" at its end for a process that numbers its nodes.
        publishes: topics.
        subscribes: topics.
        serves: services that it answers.
        calls: services that it asks.
        executes: actions that it serves.
        orders: actions that it asks for.
    """

    name: str
    node: str
    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    executes: tuple[str, ...] = ()
    orders: tuple[str, ...] = ()


def robot_ends(options: SuiteOptions, namespace: str, simulated: bool) -> tuple[Ends, ...]:
    """Return the ends of every node of a robot, and of those who start, drive and operate it.

    Args:
        options: of its nodes, which name topics and sessions.
        namespace: of the robot.
        simulated: the robot is `sim_robot`.
    """
    names = [node.name for node in graph.nodes(simulated)]
    own = _own_ends(options, full_namespace(namespace))
    every_service = (*PARAMETER_SERVICES, *LIFECYCLE_SERVICES)
    starter = Ends(
        STARTER,
        "_streaming_vla_starter_*",
        publishes=(AWAY_TOPIC, *NODE_TOPICS),
        subscribes=("/clock",),
        serves=_of("~", PARAMETER_SERVICES),
        calls=tuple(f"{name}/{service}" for name in names for service in ("get_state", "change_state")),
    )
    operator = Ends(
        OPERATOR,
        "*",
        publishes=("instruction", *NODE_TOPICS),
        subscribes=(ANYTHING,),
        serves=_of("~", PARAMETER_SERVICES),
        calls=(
            *("start_episode", "stop_episode", *(("reset_robot",) if simulated else ())),
            *(service for name in names for service in _of(name, every_service)),
        ),
        orders=(ACTION,),
    )
    drivers = Ends(DRIVERS, "*", publishes=(*_heard(options), SUCCESS), subscribes=_commands(options))
    nodes = [_node(name, own[name]) for name in names]
    recorder = _node("recorder", {"subscribes": (ANYTHING,)})
    return (*nodes, recorder, starter, operator, *(() if simulated else (drivers,)))


def _node(name: str, own: Mapping[str, tuple[str, ...]]) -> Ends:
    """Return the ends of a node of the suite: its own, and those that every one of them has."""
    every = {
        "publishes": ("spans", "/diagnostics", "~/transition_event", *NODE_TOPICS),
        "subscribes": ("/clock",),
        "serves": _of("~", (*PARAMETER_SERVICES, *LIFECYCLE_SERVICES)),
    }
    return Ends(name, name, **{end: (*every.get(end, ()), *own.get(end, ())) for end in {*every, *own}})


def _own_ends(options: SuiteOptions, namespace: str) -> dict[str, dict[str, tuple[str, ...]]]:
    robots = [resolved_session(session, namespace).rstrip("/") for session in options.inference.sessions]
    return {
        "observer": {
            "publishes": ("observation",),
            "subscribes": (
                *("episode", "observe_request"),
                *(*options.observer.camera_topics, options.observer.robot_state_topic),
            ),
        },
        "inference": {
            "publishes": _each(robots, ("generated_action", "context", "kv_cache_stats")),
            "subscribes": _each(robots, ("observation", "generate")),
            "serves": _each(robots, ("predict_saliency", "reset_session")),
        },
        "generator": {
            "publishes": ("action", "generate"),
            "subscribes": (
                *("episode", "observe_request", "context", "execution_state", "generated_action"),
                options.generator.robot_state_topic,
            ),
        },
        "executor": {
            "publishes": (
                *("execution_state", f"command{PREVIEW}", f"gripper_command{PREVIEW}"),
                *_commands(options),
            ),
            "subscribes": ("episode", "context", "action", AWAY_TOPIC, options.executor.joint_states_topic),
        },
        "saliency_monitor": {
            "publishes": ("episode", "observe_request"),
            "subscribes": (
                *("context", "execution_state", "instruction", AWAY_TOPIC),
                options.saliency_monitor.success_topic,
            ),
            "serves": ("start_episode", "stop_episode"),
            "calls": ("predict_saliency",),
            "executes": (ACTION,),
        },
        "sim_robot": {
            "publishes": (
                *("camera/*", "robot_state", "joint_states", "hand_pose", "gripper"),
                *("instruction", SUCCESS, "/clock", "expert_command"),
            ),
            "subscribes": ("command",),
            "serves": ("reset_robot",),
        },
    }


def _commands(options: SuiteOptions) -> tuple[str, ...]:
    return options.executor.command_topic, "gripper_command"


def _heard(options: SuiteOptions) -> tuple[str, ...]:
    """Return what the nodes hear of the robot, each topic once."""
    states = (options.observer.robot_state_topic, options.generator.robot_state_topic)
    return tuple(dict.fromkeys((*options.observer.camera_topics, *states, options.executor.joint_states_topic)))


def _of(node: str, services: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{node}/{service}" for service in services)


def _each(robots: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{robot}/{name}" for robot in robots for name in names)
