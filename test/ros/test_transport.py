"""The way to the other processes: none beyond this machine unless it is wanted, and none can stop the executor."""

from __future__ import annotations

import socket
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import psutil
import pytest

from streaming_vla.bringup import graph
from streaming_vla.ros.reach import local_unless_chosen
from streaming_vla.ros.transport import choose_transport
from streaming_vla.workbench.demo.domain import DOMAINS, PARTICIPANTS, PORT_BASE, PORTS_PER_DOMAIN, reserved_domain
from streaming_vla.workbench.demo.driver import DriverError

pytestmark = pytest.mark.ros
SHARED_MEMORY = "fastdds_"


RANGE, PROFILE = "ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_DEFAULT_PROFILES_FILE"
BOTH, UDP_ONLY = "fastdds_loopback.xml", "fastdds_loopback_udp.xml"
NODES = (*(node.name for node in graph.NODES), "recorder")


@pytest.mark.parametrize("set_range", [{}, {RANGE: "SUBNET"}, {RANGE: "LOCALHOST", "ROS_LOCALHOST_ONLY": "0"}])
def test_on_a_network_only_who_may_not_be_stopped_leaves_shared_memory_alone(set_range: dict[str, str]) -> None:
    environment = dict(set_range)
    choose_transport(environment)
    assert environment == set_range
    choose_transport(environment, shared_memory=False)
    assert environment == {**set_range, "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}


@pytest.mark.parametrize("asked", [{RANGE: "LOCALHOST"}, {RANGE: "localhost"}, {"ROS_LOCALHOST_ONLY": "1"}])
@pytest.mark.parametrize(("shared_memory", "file"), [(True, BOTH), (False, UDP_ONLY)])
def test_on_this_machine_only_a_profile_takes_the_place_of_the_range(
    asked: dict[str, str], shared_memory: bool, file: str
) -> None:
    environment = dict(asked)
    choose_transport(environment, shared_memory)
    assert environment.keys() == {RANGE, PROFILE} and environment[RANGE] == "SYSTEM_DEFAULT"
    assert Path(environment[PROFILE]).name == file
    profile = ElementTree.parse(environment[PROFILE])
    spaces = "{http://www.eprosima.com}"
    assert {element.text for element in profile.iter(f"{spaces}address")} == {"127.0.0.1"}
    assert {element.text for element in profile.iter(f"{spaces}type")} == (
        {"UDPv4", "SHM"} if shared_memory else {"UDPv4"}
    )


def test_who_is_started_by_another_process_chooses_again() -> None:
    environment = {RANGE: "LOCALHOST"}
    choose_transport(environment)
    choose_transport(environment, shared_memory=False)
    assert Path(environment[PROFILE]).name == UDP_ONLY


@pytest.mark.parametrize(
    "name", ["FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"]
)
def test_what_the_operator_has_chosen_stays(name: str) -> None:
    environment = {RANGE: "LOCALHOST", name: "mine"}
    choose_transport(environment, shared_memory=False)
    assert environment == {RANGE: "LOCALHOST", name: "mine"}


def test_another_middleware_keeps_its_settings() -> None:
    settings = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", RANGE: "LOCALHOST"}
    environment = dict(settings)
    choose_transport(environment, shared_memory=False)
    assert environment == settings


def test_unless_the_operator_has_chosen_only_this_machine_reaches_the_nodes() -> None:
    environment: dict[str, str] = {"ROS_DOMAIN_ID": "7"}
    assert "Only this machine reaches these nodes" in local_unless_chosen(environment)
    assert environment == {"ROS_DOMAIN_ID": "7", RANGE: "LOCALHOST"}


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({RANGE: "LOCALHOST"}, ""),
        ({"ROS_LOCALHOST_ONLY": "1"}, ""),
        ({RANGE: "SUBNET"}, f"{RANGE} is set and ROS_SECURITY_ENABLE is not 'true'"),
        ({"ROS_LOCALHOST_ONLY": "0"}, "ROS_LOCALHOST_ONLY is set and ROS_SECURITY_ENABLE is not 'true'"),
        ({"ROS_STATIC_PEERS": "10.0.0.7"}, "ROS_STATIC_PEERS is set and"),
        ({RANGE: "SUBNET", "ROS_SECURITY_ENABLE": "true"}, "ROS_SECURITY_STRATEGY is not 'Enforce'"),
        ({RANGE: "SUBNET", "ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}, ""),
    ],
)
def test_the_choice_of_the_operator_wins_and_an_open_one_is_told(chosen: dict[str, str], told: str) -> None:
    environment = dict(chosen)
    said = local_unless_chosen(environment)
    assert environment == chosen
    assert told in said and bool(said) == bool(told)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.usefixtures("every_node")
def test_on_this_machine_only_no_socket_listens_on_a_network(node: str, suite: Any) -> None:
    sockets = psutil.Process(suite.pid(node)).net_connections(kind="inet")
    assert sockets and {socket.laddr.ip for socket in sockets} == {"127.0.0.1"}


@pytest.mark.usefixtures("every_node")
def test_the_executor_maps_no_shared_memory_of_the_middleware(suite: Any) -> None:
    maps = {node: Path(f"/proc/{suite.pid(node)}/maps").read_text() for node in ("executor", "saliency_monitor")}
    if SHARED_MEMORY not in maps["saliency_monitor"]:
        pytest.skip("this middleware uses no shared memory of Fast DDS")
    assert SHARED_MEMORY not in maps["executor"]


def test_domains_are_handed_out_once() -> None:
    with reserved_domain() as first, reserved_domain() as second, reserved_domain() as third:
        assert len({first, second, third}) == 3
        assert {first, second, third} <= set(DOMAINS)


def test_a_domain_with_a_participant_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with reserved_domain() as free:
        pass
    monkeypatch.setattr("streaming_vla.workbench.demo.domain.DOMAINS", range(free, free + 1))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", PORT_BASE + PORTS_PER_DOMAIN * free + PARTICIPANTS[0]))
        with pytest.raises(DriverError, match="every ROS domain"), reserved_domain():
            pass
    with reserved_domain() as domain:
        assert domain == free
