"""The executor's way to the other processes: none of them can stop it."""

from __future__ import annotations

import socket
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from streaming_vla.ros.transport import avoid_shared_memory
from streaming_vla.workbench.demo.domain import DOMAINS, PARTICIPANTS, PORT_BASE, PORTS_PER_DOMAIN, reserved_domain
from streaming_vla.workbench.demo.driver import DriverError

pytestmark = pytest.mark.ros
SHARED_MEMORY = "fastdds_"


@pytest.mark.parametrize("set_range", [{}, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}])
def test_on_a_network_udp_is_asked_for(set_range: dict[str, str]) -> None:
    environment = dict(set_range)
    avoid_shared_memory(environment)
    assert environment == {**set_range, "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}


def test_on_this_machine_only_a_profile_takes_the_place_of_the_range() -> None:
    environment = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    avoid_shared_memory(environment)
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SYSTEM_DEFAULT"
    profile = ElementTree.parse(environment["FASTDDS_DEFAULT_PROFILES_FILE"])
    addresses = {element.text for element in profile.iter("{http://www.eprosima.com}address")}
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize(
    "name", ["FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"]
)
def test_what_the_operator_has_chosen_stays(name: str) -> None:
    environment = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", name: "mine"}
    avoid_shared_memory(environment)
    assert environment == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", name: "mine"}


def test_another_middleware_keeps_its_settings() -> None:
    settings = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    environment = dict(settings)
    avoid_shared_memory(environment)
    assert environment == settings


def test_the_executor_maps_no_shared_memory_of_the_middleware(suite: Any, probe: Any) -> None:
    for node in ("executor", "saliency_monitor"):
        suite.start(node)
    probe.wait_for_nodes("executor", "saliency_monitor")
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
