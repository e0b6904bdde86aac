"""What the doctor finds in a parameter file and its model: all of it at once, a sentence each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from streaming_vla.bringup.doctor import find
from streaming_vla.bringup.suite_checks import SuiteChecks
from streaming_vla.workbench.demo.domain import reserved_domain

GOLDEN = Path(__file__).parents[1] / "policies" / "lerobot" / "golden"


def suite(folder: Path, text: str, **inference: str) -> SuiteChecks:
    """Return the checks of a file."""
    path = folder / "my_robot.yaml"
    path.write_text(text, encoding="utf-8")
    return SuiteChecks(path, "/", inference)


def said(check: Any) -> list[str]:
    """Return what a check says, the grade in front."""
    return [f"{finding.grade} {finding.text}" for finding in find("check", check)]


def test_the_shipped_parameters_pass() -> None:
    checks = SuiteChecks(None, "/", {})
    for check in (checks.model, checks.policy, checks.cache, checks.commands, checks.names):
        assert [line[:3] for line in said(check)] == ["ok "]


def test_everything_wrong_in_a_file_is_a_line(tmp_path: Path) -> None:
    checks = suite(
        tmp_path,
        "/**: {ros__parameters: {control_period_s: 0.1, robot_state_topic: 'bad name'}}\n"
        "/**/observer: {ros__parameters: {image_size: 64, cameras: [x, z], camera_topics: ['a b', c]}}\n"
        "/**/executor: {ros__parameters: {hold: 1.0, scale: [1, 0.5, 1.0, 1.0], command_type: joints,\n"
        "    command_topic: 'c d', joint_states_topic: ''}}\n"
        "/**/inference: {ros__parameters: {latency_profile: moon, cache_policy: full, cache_capacity: 1,\n"
        "    sessions: ['/a', '/a', 'b c']}}\n",
    )
    parameters = said(checks.parameters)
    assert len(parameters) == 2
    assert "there is no parameter 'hold' (did you mean 'hold_s'?)" in parameters[0] + parameters[1]
    assert "'scale' is [1, 0.5, 1.0, 1.0], a list of several kinds" in parameters[0] + parameters[1]
    policy = said(checks.policy)
    assert len(policy) == 2 and all(line.startswith("FAIL") for line in policy)
    assert "cameras are x, z" in policy[0] and "image_size is 64" in policy[1]
    cache = said(checks.cache)
    assert len(cache) == 2 and "keeps the newest 1" in cache[0] and "latency profile 'moon' is unknown" in cache[1]
    names = said(checks.names)
    assert [line.split(" is no topic name")[0] for line in names[:4]] == [
        "FAIL 'a b'",
        "FAIL 'bad name'",
        "FAIL 'c d'",
        "FAIL ''",
    ]
    assert len(names) == 6 and "'b c', which is no namespace" in names[4] and "different ones" in names[5]


def test_a_command_that_cannot_be_said_is_found(tmp_path: Path) -> None:
    checks = suite(tmp_path, "/**/executor: {ros__parameters: {command_type: joints, joint_names: ['', '', '', g]}}")
    assert said(checks.commands)[0].startswith("FAIL joint_names of 'dx' is empty, but 'dx' is a change")


def test_limits_in_other_units_are_a_remark(tmp_path: Path) -> None:
    checks = suite(tmp_path, "/**: {ros__parameters: {action_high: [1.0, 1.0, 1.0, 57.0]}}")
    (line,) = said(checks.policy)
    assert line == "note action_low to action_high of 'gripper' span 58, the policy's 2: are the units the same?"


def test_a_file_that_cannot_be_read_is_a_line(tmp_path: Path) -> None:
    (line,) = said(suite(tmp_path, "a: [").parameters)
    assert line.startswith("FAIL") and "this is not valid YAML" in line


def test_what_a_checkpoint_lacks_is_said_at_once(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="no release of it is for Python 3.10")
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "smolvla" / "checkpoint", folder)
    (folder / "model.safetensors").unlink()
    (folder / "policy_postprocessor_step_0_unnormalizer_processor.safetensors").unlink()
    checks = SuiteChecks(None, "/", {"model": f"lerobot:{folder}", "model_device": "cuda:7"})
    lines = said(checks.model)
    assert len(lines) == 5 and all(line.startswith("FAIL") for line in lines)
    for part in (
        "model_device",
        "model.safetensors",
        "tokenizer is missing",
        "configuration of the vision",
        "statistics",
    ):
        assert sum(part in line for line in lines) >= 1, part
    assert said(checks.policy) == ["FAIL not compared with the robot: the model has to be loaded first"]


def test_a_whole_checkpoint_is_named_with_what_it_needs() -> None:
    pytest.importorskip("transformers", reason="no release of it is for Python 3.10")
    given = {"model": f"lerobot:{GOLDEN / 'smolvla' / 'checkpoint'}", "model_assets": str(GOLDEN / "smolvla" / "vlm")}
    (line,) = said(SuiteChecks(None, "/", given).model)
    assert line.startswith("ok") and line.endswith("cameras top, wrist, state 6")


@pytest.mark.ros
def test_topics_are_looked_for_where_a_robot_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from arm_stand_in import ArmStandIn

    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")  # the profile is read once in a process
    text = (
        "/**: {ros__parameters: {robot_state_topic: joint_states}}\n"
        "/**/observer: {ros__parameters: {camera_topics: [top_camera/image_raw, elsewhere]}}\n"
    )
    with reserved_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        (line,) = said(suite(tmp_path, text).topics)
        assert line.startswith("note no robot is up")
        with ArmStandIn(domain):
            lines = said(suite(tmp_path, text).topics)
    assert lines == [
        "FAIL nobody publishes /elsewhere: start the robot's drivers, or correct camera_topics",
        "FAIL /joint_states is sensor_msgs/msg/JointState, expected std_msgs/msg/Float64MultiArray: correct the type "
        "of robot_state_topic",
    ]
