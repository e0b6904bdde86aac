"""The policies name what the nodes have in the live graph: whatever a node needs, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from streaming_vla.bringup import graph
from streaming_vla.bringup.security.endpoints import ANYTHING, Ends, robot_ends
from streaming_vla.parameters.nodes import SuiteOptions

pytestmark = pytest.mark.ros
NODES = (*(node.name for node in graph.NODES), "recorder")
# what a parameter, or another type of command, brings with it
SOMETIMES = {"/clock", "/command_preview", "/gripper_command", "/gripper_command_preview"}
ACTION_ENDS = "/_action/"


def named(ends: Ends, names: tuple[str, ...]) -> set[str]:
    """Return names in full, for a robot in the root namespace."""
    return {
        name if name.startswith("/") else f"/{ends.node}{name[1:]}" if name.startswith("~") else f"/{name}"
        for name in names
    }


def of_graph(found: list[tuple[str, list[str]]]) -> set[str]:
    """Return names; those that belong to an action are of the action."""
    return {name for name, _ in found if ACTION_ENDS not in name}


def actions_of_graph(found: list[tuple[str, list[str]]]) -> set[str]:
    return {name.split(ACTION_ENDS)[0] for name, _ in found if ACTION_ENDS in name}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.usefixtures("every_node")
def test_a_policy_allows_what_the_node_has_and_no_more(name: str, probe: Any) -> None:
    ends = next(each for each in robot_ends(SuiteOptions(), "/", simulated=True) if each.name == name)
    services = probe.node.get_service_names_and_types_by_node(name, "/")
    side = [found for found in probe.node.get_node_names() if found == f"_{name}_requests"]
    publishers, subscriptions = [], []
    for node in (name, *side):
        publishers += probe.node.get_publisher_names_and_types_by_node(node, "/")
        subscriptions += probe.node.get_subscriber_names_and_types_by_node(node, "/")
    clients = probe.node.get_client_names_and_types_by_node(name, "/")
    for has, allowed in (
        (of_graph(publishers), named(ends, ends.publishes)),
        (of_graph(subscriptions), named(ends, ends.subscribes)),
        (of_graph(services), named(ends, ends.serves)),
        (of_graph(clients), named(ends, ends.calls)),
        (actions_of_graph(services), named(ends, ends.executes)),
    ):
        if ANYTHING in allowed:
            continue
        wild = {each[:-1] for each in allowed if each.endswith("/*")}
        assert not {each for each in has - allowed if not each.startswith(tuple(wild) or "-")}, "it would be denied"
        assert not {each for each in allowed - has - SOMETIMES if each[:-1] not in wild}, "nobody needs it"
