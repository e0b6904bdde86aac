"""A node that cannot start as it is configured says why, and where, in one sentence, and has an exit code for it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from streaming_vla.ros.executors import SIGNALS
from streaming_vla.ros.exit_codes import CONFIG_ERROR

pytestmark = pytest.mark.ros
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run_here(domain: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a node in this process, which spares its start: returns its exit code and what it said on stderr."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))

    def run(node: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", [node, "--ros-args", "-r", f"__node:={node}", *arguments])
        with pytest.raises(SystemExit) as ended:
            import_module(f"streaming_vla.ros.nodes.{node}").main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capfd.readouterr().err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("node", "text", "sentence"),
    [
        ("observer", "{observer: {ros__parameters: {image_siz: 96}}}", "no parameter 'image_siz' (did you mean"),
        ("executor", "{executor: {ros__parameters: {hold_s: long}}}", "'hold_s' is 'long', expected a number from 0"),
        ("executor", "{executor: {ros__parameters: {hold_s: -1}}}", "'hold_s' is -1, expected a number from 0 to 600"),
        (
            "executor",
            "{executor: {ros__parameters: {scale: [1.0], maximum_lead: [0.1], keep_when_stopped: [true]}}}",
            "scale has 1 values, maximum_lead has 1 values, keep_when_stopped has 1 values, expected one for each of",
        ),
        ("executor", "{executor: {ros__parameters: {velocity_limit: [1.0]}}}", "velocity_limit has 1 values"),
        (
            "executor",
            "{executor: {ros__parameters: {maximum_lead: [1.0]}}}",
            "maximum_lead has 1 values, expected one",
        ),
        (
            "executor",
            "{executor: {ros__parameters: {command_type: joints, keep_when_stopped: [true, false, false, true]}}}",
            "keep_when_stopped of 'dx' is true, but 'dx' is a change",
        ),
        (
            "executor",
            "{executor: {ros__parameters: {start_actions: 3}}}",
            "start_actions is 3, but the generator sends only 1 before the first motion",
        ),
        ("observer", "{observer: {ros__parameters: {cameras: [a]}}}", "camera_topics has 2 topics, expected one for"),
        (
            "observer",
            "{observer: {ros__parameters: {camera_topics: [front/image, the wrist]}}}",
            "'the wrist' is no topic name: expected letters",
        ),
        (
            "observer",
            "{observer: {ros__parameters: {robot_state_joints: [elbow]}}}",
            "robot_state_joints names elbow, but robot_state_type is std_msgs/msg/Float64MultiArray, which has no",
        ),
        (
            "observer",
            "{observer: {ros__parameters: {robot_state_nameless_joints: [elbow]}}}",
            "robot_state_nameless_joints names elbow, but robot_state_type is std_msgs/msg/Float64MultiArray, which",
        ),
        (
            "generator",
            "{generator: {ros__parameters: {action_low: [2.0, 0.0, 0.0, 0.0]}}}",
            "action_low of 'dx' is 2.0, expected less than its",
        ),
        (
            "generator",
            "{generator: {ros__parameters: {action_low: [0.0]}}}",
            "action_low has 1 values, expected one for each of dx",
        ),
        (
            "inference",
            "{inference: {ros__parameters: {cache_policy: gated}}}",
            "but cache_gate is empty: name the weights",
        ),
        (
            "inference",
            "{inference: {ros__parameters: {sessions: [/left, '']}}}",
            "sessions has '', which is no namespace: expected letters",
        ),
        (
            "inference",
            "{inference: {ros__parameters: {sessions: [/left arm]}}}",
            "sessions has '/left arm', which is no namespace: expected letters",
        ),
        (
            "inference",
            "{inference: {ros__parameters: {sessions: [/left/, left]}}}",
            "sessions are /left, /left, expected at most 4 different ones",
        ),
        ("inference", "{inference: {ros__parameters: {model: gpt}}}", "model 'gpt' is unknown: choose one of"),
        (
            "inference",
            "{inference: {ros__parameters: {model: /none.safetensors}}}",
            "'/none.safetensors' does not exist",
        ),
        ("sim_robot", "{sim_robot: {ros__parameters: {task: fly}}}", "unknown task 'fly': choose one of reach"),
        ("observer", "{observer: [", "robot.yaml: this is not valid YAML"),
    ],
)
def test_bad_parameters(run_here: Run, tmp_path: Path, node: str, text: str, sentence: str) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text(text, encoding="utf-8")
    code, said = run_here(node, "--params-file", str(file), "-p", "autostart:=true")
    assert code == CONFIG_ERROR
    assert sentence in said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"{file}: ")


def test_a_missing_parameter_file(suite: Any) -> None:
    code, said = suite.run("saliency_monitor", "--params-file", "/none.yaml")
    assert (code, said) == (CONFIG_ERROR, "/none.yaml: the parameter file cannot be read: No such file or directory\n")


def test_the_sentence_says_file_section_and_value(suite: Any, tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text("/**: {ros__parameters: {control_period_s: 0.05}}\n/*/executor: {ros__parameters: {hold_s: -1}}")
    code, said = suite.run("executor", "-r", "__ns:=/arm", "--params-file", str(file))
    expected = "node 'executor': parameter 'hold_s' is -1, expected a number from 0 to 600 (s)\n"
    assert (code, said.splitlines(True)[-1]) == (CONFIG_ERROR, f"{file}: section '/*/executor': {expected}")


def test_whole_numbers_are_taken_for_seconds(suite: Any, probe: Any, tmp_path: Path) -> None:
    suite.start("executor", hold_s=3)
    probe.wait_for_nodes("executor")


def test_a_node_that_started_by_itself_says_why_a_later_transition_failed(
    suite: Any, probe: Any, tmp_path: Path
) -> None:
    suite.start("recorder", bag_folder=str(tmp_path), bag_name="drawer")
    probe.wait_for_nodes("recorder")

    def change(id_: int) -> bool:
        transition = Transition(id=id_)
        return bool(probe.call(ChangeState, "/recorder/change_state", transition=transition).success)

    assert change(Transition.TRANSITION_DEACTIVATE)
    assert not change(Transition.TRANSITION_ACTIVATE)
    sentence = f"node 'recorder': bag '{tmp_path / 'drawer'}' exists already: choose another bag_name"
    probe.wait(lambda: sentence in suite.log("recorder"), "nothing is said")
