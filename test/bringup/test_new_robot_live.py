"""`streaming-vla new-robot` beside a live graph and a checkpoint of LeRobot: the file is one that the suite takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="no release of it is for Python 3.10")

from arm_stand_in import ArmStandIn

from streaming_vla.bringup.doctor import find
from streaming_vla.bringup.new_robot.joints import SO_ARM
from streaming_vla.bringup.suite_checks import SuiteChecks
from streaming_vla.parameters import load
from streaming_vla.workbench.demo.domain import reserved_domain

pytestmark = pytest.mark.ros
SMOLVLA = Path(__file__).parents[1] / "policies" / "lerobot" / "golden" / "smolvla"


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    """The domain of an arm in namespace /arm."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with reserved_domain() as number, ArmStandIn(number, "/arm"):
        yield number


def call(domain: int, *arguments: str) -> tuple[int, str]:
    """Run the command; return exit code and everything that it has said."""
    done = subprocess.run(
        [sys.executable, "-m", "streaming_vla", *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(domain)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def new_robot(domain: int, out: Path, *more: str) -> tuple[int, str]:
    model = ["--model", f"lerobot:{SMOLVLA / 'checkpoint'}", "--assets", str(SMOLVLA / "vlm")]
    return call(domain, "new-robot", *model, "--namespace", "arm", "-o", str(out), *more)


def test_graph_and_checkpoint_become_a_file(domain: int, tmp_path: Path) -> None:
    out = tmp_path / "my_robot.yaml"
    code, said = new_robot(domain, out, "--fps", "30", "--units", "degrees")
    assert code == 0, said
    options, text = load.read(out, "arm"), out.read_text()
    assert options.observer.cameras == ("top", "wrist")
    assert options.observer.camera_topics == ("top_camera/image_raw", "wrist_camera/image_raw")
    assert options.observer.robot_state_joints == SO_ARM and options.observer.robot_state_topic == "joint_states"
    assert options.executor.command_type == "trajectory" and options.inference.cache_policy == "newest"
    assert options.executor.command_topic == "controller/joint_trajectory"
    assert len(options.executor.velocity_limit) == len(options.generator.action_low) == 6
    assert "Look at what is guessed: " in said and "SetRemap" not in said + text
    code, said = new_robot(domain, out)
    assert (
        code == 1 and said == f"streaming-vla: '{out}' exists already: choose another file with --out, or remove it\n"
    )


def test_without_a_terminal_what_is_not_clear_is_a_sentence(domain: int, tmp_path: Path) -> None:
    code, said = new_robot(domain, tmp_path / "my_robot.yaml", "--camera", "top=/nowhere")
    assert code == 1 and "Traceback" not in said
    assert (
        "--camera top=/nowhere: nobody publishes pictures there; picture topics are /arm/top_camera/image_raw" in said
    )


def test_the_doctor_takes_the_file_and_sees_the_robot(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my_robot.yaml"
    assert new_robot(domain, out, "--fps", "30", "--units", "degrees")[0] == 0
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    checks = SuiteChecks(out, "arm", {})
    every = (checks.parameters, checks.model, checks.policy, checks.cache, checks.commands, checks.names, checks.topics)
    found = [finding for check in every for finding in find("x", check)]
    assert [finding.grade for finding in found] == ["ok"] * 7
    assert "/arm/controller/joint_trajectory have their ends" in found[-1].text
    wrong = out.read_text().replace('command_topic: "controller/joint_trajectory"', 'command_topic: "command"')
    out.write_text(wrong.replace('joint_states_topic: "joint_states"', 'joint_states_topic: "joints"'))
    texts = [finding.text for finding in find("x", SuiteChecks(out, "arm", {}).topics)]
    assert len(texts) == 2 and texts[0].endswith("without which the robot is not moved: correct joint_states_topic")
    assert texts[1].startswith("nobody listens to /arm/command as trajectory_msgs/msg/JointTrajectory")
