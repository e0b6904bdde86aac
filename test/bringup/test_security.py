"""`streaming-vla security`: an enclave for every process, in SROS2's format, with what the robot's parameters name."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from streaming_vla.bringup import graph

TIMEOUT_S = 100.0
PARAMETERS = """
/**:
  ros__parameters:
    robot_state_topic: /arm/state
/**/executor:
  ros__parameters:
    command_topic: /arm/command
    joint_states_topic: /arm/joint_states
/**/observer:
  ros__parameters:
    cameras: [top]
    camera_topics: [/top/image_raw]
"""
# of SROS2's format (policy.xsd, version 0.2.0): which rights each list may give
RIGHTS = {"topics": {"publish", "subscribe"}, "services": {"reply", "request"}, "actions": {"call", "execute"}}


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "streaming_vla", "security", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def rules(policy: Path) -> dict[str, dict[str, set[str]]]:
    """Return what is allowed, by enclave and right, after a look at every element of the file."""
    root = ElementTree.parse(policy).getroot()
    assert (root.tag, root.attrib) == ("policy", {"version": "0.2.0"})
    (enclaves,) = root
    assert enclaves.tag == "enclaves" and not enclaves.attrib
    found: dict[str, dict[str, set[str]]] = {}
    for enclave in enclaves:
        assert enclave.tag == "enclave" and set(enclave.attrib) == {"path"} and enclave.get("path", "")[0] == "/"
        (profiles,) = enclave
        (profile,) = profiles
        assert (profiles.tag, profile.tag) == ("profiles", "profile") and set(profile.attrib) == {"ns", "node"}
        allowed = found.setdefault(enclave.attrib["path"], {})
        for entries in profile:
            ((right, qualifier),) = entries.attrib.items()
            assert right in RIGHTS[entries.tag] and qualifier == "ALLOW" and len(entries)
            assert {entry.tag for entry in entries} == {entries.tag[:-1]}
            assert right not in allowed
            allowed[right] = {str(entry.text) for entry in entries}
    return found


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    file = tmp_path / "my_robot.yaml"
    file.write_text(PARAMETERS, encoding="utf-8")
    return file


def test_every_process_has_an_enclave_with_what_the_parameters_name(parameters: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    run("--keystore", str(keys), "--params-file", str(parameters), "--namespace", "left")
    found = rules(keys / "policies" / "left.xml")
    names = {node.name for node in graph.nodes(simulated=False)}
    assert set(found) == {f"/left/{name}" for name in (*names, "recorder", "starter", "operator", "drivers")}
    commanders = {path for path, allowed in found.items() if "/arm/command" in allowed["publish"]}
    assert commanders == {"/left/executor"}
    assert [path for path, allowed in found.items() if "action" in allowed["publish"]] == ["/left/generator"]
    assert "/top/image_raw" in found["/left/observer"]["subscribe"] & found["/left/drivers"]["publish"]
    assert "/arm/joint_states" in found["/left/executor"]["subscribe"] & found["/left/drivers"]["publish"]
    assert "/arm/command" in found["/left/drivers"]["subscribe"]
    assert "/left/context" in found["/left/inference"]["publish"]
    askers = {path for path, allowed in found.items() if "start_episode" in allowed.get("request", ())}
    assert askers == {"/left/operator"}


def test_enclaves_may_have_another_prefix(tmp_path: Path) -> None:
    run("--keystore", str(tmp_path), "--enclave", "/fleet/left", "--sim")
    found = rules(tmp_path / "policies" / "root.xml")
    assert set(found) >= {"/fleet/left/sim_robot", "/fleet/left/starter"} and "/fleet/left/drivers" not in found


def test_without_sros2_the_policy_is_there_and_the_next_step_is_told(tmp_path: Path) -> None:
    code, out, error = run("--keystore", str(tmp_path), PATH=str(tmp_path))
    policy = tmp_path / "policies" / "root.xml"
    assert code == 1 and out.startswith(f"{policy}: ") and policy.is_file()
    assert error.count("\n") == 1
    assert "SROS2 is not installed" in error and f"generate_artifacts -k {tmp_path} -p {policy}" in error


def test_sros2_is_asked_for_the_keys(tmp_path: Path) -> None:
    tool = tmp_path / "ros2"
    tool.write_text(f'#!/bin/sh\necho "asked: $*"\nexit $(cat {tmp_path}/code)\n', encoding="utf-8")
    tool.chmod(0o755)
    policy = tmp_path / "policies" / "root.xml"
    for exit_code in (0, 3):
        (tmp_path / "code").write_text(str(exit_code))
        path = f"{tmp_path}:{os.environ['PATH']}"
        code, out, error = run("--keystore", str(tmp_path), PATH=path, ROS_DOMAIN_ID="7")
        assert f"asked: security generate_artifacts -k {tmp_path} -p {policy}\n" in out and "ROS domain 7 only" in out
        assert code == (1 if exit_code else 0) and bool(error) == bool(exit_code)
        assert (f"export ROS_SECURITY_KEYSTORE={tmp_path}" in out) == (exit_code == 0)


@pytest.mark.skipif(
    importlib.util.find_spec("sros2") is None, reason="sros2 comes with a ROS installation, not from PyPI"
)
def test_sros2_takes_the_policy(parameters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sros2.api import _artifact_generation

    keys = tmp_path / "keys"
    run("--keystore", str(keys), "--params-file", str(parameters), PATH=str(tmp_path))
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    _artifact_generation.generate_artifacts(keys, policy_files=[keys / "policies" / "root.xml"])
    for node in graph.nodes(simulated=False):
        folder = keys / "enclaves" / node.name
        assert (folder / "cert.pem").is_file() and (folder / "permissions.p7s").is_file()
    permissions = ElementTree.parse(keys / "enclaves" / "executor" / "permissions.xml")
    (grant,) = permissions.iter("grant")
    assert grant.findtext("default") == "DENY" and {each.text for each in grant.iter("id")} == {"7"}
    assert "rt/arm/command" in {topic.text for topic in grant.iterfind("allow_rule/publish/topics/topic")}
    assert "rt/action" not in {topic.text for topic in grant.iterfind("allow_rule/publish/topics/topic")}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--namespace", "left arm"), "namespace 'left arm' is not a ROS namespace"),
        (("--params-file", "no_such.yaml"), "no_such.yaml: the parameter file cannot be read"),
    ],
)
def test_what_it_cannot_use_is_one_sentence(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    code, _, error = run("--keystore", str(tmp_path / "keys"), *arguments)
    assert code == 1 and told in error and error.count("\n") == 1
    assert not (tmp_path / "keys").exists()
