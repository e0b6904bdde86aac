"""Who publishes and who listens to topics, and which names are none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.exceptions import InvalidNamespaceException, InvalidTopicNameException
from rclpy.node import Node
from rclpy.validate_namespace import validate_namespace
from rclpy.validate_topic_name import validate_topic_name

from streaming_vla.ros.middleware import begin

AWAY_TOPIC = "nodes_away"  # of supervisors to executors
DISCOVERY_S = 6.0  # at most, where nobody is there
SETTLED_S = 1.5  # so long nothing new has appeared
ASK_S = 0.05


@dataclass(frozen=True)
class Ends:
    """The two ends of a topic.

    Args:
        name: full.
        sent, taken: message types that somebody publishes and listens to.
    """

    name: str
    sent: frozenset[str]
    taken: frozenset[str]


@dataclass(frozen=True)
class Graph:
    """What was seen of a graph.

    Args:
        topics: by the name that was asked for.
        nodes: name and namespace of those of others.
    """

    topics: Mapping[str, Ends]
    nodes: frozenset[tuple[str, str]]


def discover(node: Node) -> None:
    """Wait until no more nodes and topics appear."""
    end_s, before, since_s = time.monotonic() + DISCOVERY_S, (0, 0), time.monotonic()
    while time.monotonic() < end_s:
        now = (len(set(node.get_node_names()) - {node.get_name()}), len(node.get_topic_names_and_types()))
        if now != before:
            before, since_s = now, time.monotonic()
        if now[0] and time.monotonic() - since_s > SETTLED_S:
            break
        time.sleep(ASK_S)


@contextmanager
def ends(namespace: str, topics: Sequence[str]) -> Iterator[Graph]:
    """Give the ends of topics, and who is there; takes some seconds.

    Args:
        namespace: of the robot, absolute; relative topics lie in it.
        topics: names, relative or absolute.
    """
    context = rclpy.Context()
    begin(context)
    node = rclpy.create_node(f"_topics_{os.getpid()}", namespace=namespace, context=context)
    try:
        discover(node)
        found = {}
        for topic in topics:
            name = node.resolve_topic_name(topic)
            sent, taken = node.get_publishers_info_by_topic(name), node.get_subscriptions_info_by_topic(name)
            found[topic] = Ends(name, _types(sent), _types(taken))
        others = set(node.get_node_names_and_namespaces()) - {(node.get_name(), node.get_namespace())}
        yield Graph(found, frozenset(others))
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def type_name(message_type: Any) -> str:
    """Return how the graph calls the type of a message class."""
    package, *_ = message_type.__module__.split(".")
    return f"{package}/msg/{message_type.__name__}"


def name_problem(topic: str) -> str:
    """Return why a text is no name of a topic, empty when it is one."""
    try:
        validate_topic_name(topic)
    except InvalidTopicNameException:
        return f"'{topic}' is no topic name: expected letters, digits, '_' and '/', as in camera/front/image"
    return ""


def resolved_session(name: str, own: str) -> str:
    """Return the namespace that an entry of `sessions` means, as the robot's own nodes say it.

    Args:
        own: namespace of the inference node.

    Raises:
        ValueError: it is none.
    """
    if name == ".":
        return own
    session = name if name.startswith("/") else f"{own.rstrip('/')}/{name}"
    session = session.rstrip("/") or "/"
    try:
        validate_namespace(session if name else "")
    except InvalidNamespaceException as error:
        raise ValueError(
            f"sessions has '{name}', which is no namespace: expected letters, digits, '_' and '/', as in /left"
        ) from error
    return session


def check_sessions(names: Sequence[str], max_sessions: int) -> None:
    """Check the namespaces of the robots that are served; ValueError when they are doubled or too many."""
    if len(set(names)) != len(names) or len(names) > max_sessions:
        raise ValueError(
            f"sessions are {', '.join(names)}, expected at most {max_sessions} different ones (max_sessions)"
        )


def session_problems(entries: Sequence[str], own: str, max_sessions: int) -> list[str]:
    """Return a sentence for everything that is wrong with parameter `sessions`."""
    names, found = [], []
    for entry in entries:
        try:
            names.append(resolved_session(entry, own))
        except ValueError as error:
            found.append(str(error))
    try:
        check_sessions(names, max_sessions)
    except ValueError as error:
        found.append(str(error))
    return found


def _types(ends_of: Sequence[Any]) -> frozenset[str]:
    return frozenset(each.topic_type for each in ends_of)
