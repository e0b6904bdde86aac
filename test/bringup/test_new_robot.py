"""A robot's parameter file from facts of graph and policy: what is matched, converted, guessed, asked and refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streaming_vla.bringup.new_robot.choices import Said, make_choices
from streaming_vla.bringup.new_robot.command import write
from streaming_vla.bringup.new_robot.description import joint_ranges
from streaming_vla.bringup.new_robot.facts import (
    ArrayTopic,
    CommandTopic,
    JointTopic,
    PictureTopic,
    PolicyFacts,
    RobotFacts,
    UnclearError,
)
from streaming_vla.bringup.new_robot.joints import SO_ARM
from streaming_vla.commands.action_reader import TRAJECTORY, TWIST_STAMPED
from streaming_vla.images.decode import COMPRESSED, IMAGE, POINTS
from streaming_vla.options.shared import ARRAY
from streaming_vla.parameters import load
from streaming_vla.parameters.nodes import SuiteOptions
from streaming_vla.policies.contract import PolicySpec
from streaming_vla.policies.layout import ActionLayout

HALF = math.pi / 2


def policy(span: float = 150.0, gripper: tuple[float, float] = (0.0, 100.0), **changes: Any) -> PolicyFacts:
    """Return the facts of a policy of an arm of six joints, whose five go from -span to span."""
    low, high = (-span,) * 5 + (gripper[0],), (span,) * 5 + (gripper[1],)
    names = tuple(f"action_{index}" for index in range(6))
    wider = [tuple(1.2 * each + more for each in limits) for limits, more in ((low, -1e-3), (high, 0.0))]
    layout = ActionLayout(names, (True,) * 6, *wider, (0.0,) * 6)
    spec = PolicySpec("toy", ("top", "wrist"), 64, 6, layout, 10, 10, chunk=True)
    return PolicyFacts("lerobot:/checkpoint", spec, **{"data_ranges": tuple(zip(low, high, strict=True)), **changes})


def robot(**changes: Any) -> RobotFacts:
    """Return the facts of an SO-101 whose drivers sort its joints by name."""
    joints = tuple(sorted(SO_ARM))
    facts = RobotFacts(
        "/",
        (PictureTopic("/top_camera/image_raw", IMAGE, (640, 480)), PictureTopic("/wrist/image_raw", IMAGE)),
        (JointTopic("/joint_states", joints, (0.1,) * 6),),
        (),
        (CommandTopic("/arm_controller/joint_trajectory", TRAJECTORY),),
        dict.fromkeys(SO_ARM[:5], (-HALF, HALF)) | {"gripper": (-0.2, 1.8)},
    )
    return replace(facts, **changes)


def written(tmp_path: Path, of: PolicyFacts, robot_facts: RobotFacts, said: Said | None = None, ask: Any = None) -> Any:
    """Return the options that the written file stands for, and its text."""
    path = tmp_path / "my_robot.yaml"
    path.unlink(missing_ok=True)
    write(path, of, robot_facts, said or Said(fps=30.0), ask)
    return load.read(path), path.read_text()


def test_degrees_of_an_arm_become_radians_in_the_order_of_the_policy(tmp_path: Path) -> None:
    options, text = written(tmp_path, policy(), robot())
    assert isinstance(options, SuiteOptions)
    assert options.observer.robot_state_joints == options.executor.joint_names == SO_ARM
    assert options.executor.scale[:5] == pytest.approx((math.pi / 180.0,) * 5)
    assert options.executor.scale[5] == pytest.approx(0.02) and options.executor.offset == (0.0,) * 5 + (-0.2,)
    assert options.observer.robot_state_scale == options.executor.scale
    assert options.observer.robot_state_offset == options.executor.offset
    assert options.generator.control_period_s == pytest.approx(1.0 / 30.0, abs=1e-6)
    assert options.executor.command_type == "trajectory"
    assert options.observer.camera_topics == ("top_camera/image_raw", "wrist/image_raw")
    assert options.executor.keep_when_stopped == (False,) * 5 + (True,)
    assert options.executor.command_topic == "arm_controller/joint_trajectory"
    assert options.executor.joint_states_topic == "joint_states" and "SetRemap" not in text
    assert "# GUESSED from: the policy is in degrees: the training data go up to 150\n    scale:" in text
    assert "(640x480)" in text and "; at the robot -3.14, -3.14," in " ".join(text.replace("#", "").split())


def test_a_share_of_the_range_becomes_radians(tmp_path: Path) -> None:
    ranges = dict.fromkeys(SO_ARM[:5], (-1.0, 3.0)) | {"gripper": (0.0, 1.5)}
    options, _ = written(tmp_path, policy(100.0), robot(ranges=ranges), Said(units="range", fps=20.0))
    assert options.executor.scale == pytest.approx((0.02,) * 5 + (0.015,))
    assert options.executor.offset == pytest.approx((1.0,) * 5 + (0.0,))


def test_a_range_that_nothing_tells_is_no_reason_for_units(tmp_path: Path) -> None:
    of = policy(1000.0, data_ranges=(None,) * 6)
    with pytest.raises(UnclearError, match=r"No statistics tell their range.*--units degrees"):
        written(tmp_path, of, robot())
    _, text = written(tmp_path, of, robot(), Said(units="radians", fps=30.0))
    plain = " ".join(text.replace("#", "").split())
    assert plain.count("no statistics tell the range of action_0, action_1,") == 2 and "LOOK" not in text


def test_radians_stay(tmp_path: Path) -> None:
    options, _ = written(tmp_path, policy(1.5, (0.0, 1.0)), robot())
    assert options.executor.scale == (1.0,) * 6 and options.executor.offset == (0.0,) * 6


def test_names_of_the_data_set_say_which_joint_is_which(tmp_path: Path) -> None:
    order = SO_ARM[::-1]
    of = policy(action_names=tuple(f"{name}.pos" for name in order), state_names=tuple(f"{name}.pos" for name in order),
                rate=25.0, source="data set x")  # fmt: skip
    options, text = written(tmp_path, of, robot(), Said(units="radians"))
    assert options.executor.joint_names == order and options.generator.control_period_s == 0.04
    assert "# From: in the policy's order: data set x has these names\n    robot_state_joints" in text


def test_everything_that_is_not_clear_is_said_at_once(tmp_path: Path) -> None:
    unknown = JointTopic("/joint_states", tuple("abcdef"), (0.0,) * 6)
    pictures = tuple(PictureTopic(f"/cam{index}/image", IMAGE) for index in range(3))
    with pytest.raises(UnclearError) as error:
        written(tmp_path, policy(), robot(joints=(unknown,), pictures=pictures))
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Which topic is the policy's camera 'top'? (/cam0/image, /cam1/image, /cam2/image)")
    assert "Say it with --camera top=/cam0/image" in lines[0]
    assert lines[1].endswith("Say it with --joints a,b,c,d,e,f, or give the data set with --data")
    assert not (tmp_path / "my_robot.yaml").exists()


def test_units_that_the_values_do_not_tell_are_asked(tmp_path: Path) -> None:
    with pytest.raises(
        UnclearError, match=r"go up to 98: are they degrees.*Say it with --units degrees or --units range"
    ):
        written(tmp_path, policy(98.0), robot())
    asked = []

    def ask(question: str, answers: Any) -> str:
        asked.append(question)
        return "range"

    options, _ = written(tmp_path, policy(98.0), robot(), ask=ask)
    assert len(asked) == 1 and options.executor.scale[0] == pytest.approx(HALF / 100.0)


def test_a_range_that_nobody_tells_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UnclearError, match=r"range of joint 'gripper' is not known.*--joint-range gripper=LOW:HIGH"):
        written(tmp_path, policy(), robot(ranges={}))
    options, _ = written(tmp_path, policy(), robot(ranges={}), Said(ranges={"gripper": (0.0, 2.0)}))
    assert options.executor.scale[5] == pytest.approx(0.02)


def test_a_rate_that_nobody_tells_is_a_guess(tmp_path: Path) -> None:
    _, text = written(tmp_path, policy(), robot(), Said())
    assert "# GUESSED from: 30 actions a second, as lerobot records by default" in text


def test_a_robot_that_stands_outside_of_the_training_data_is_told(tmp_path: Path) -> None:
    away = JointTopic("/joint_states", SO_ARM, (0.0, 0.0, 0.0, 0.0, 12.0, 0.1))
    _, text = written(tmp_path, policy(), robot(joints=(away,)))
    assert "# LOOK: wrist_roll stands at 12 (robot), 687.5 for the policy" in text


def test_a_state_of_numbers_and_velocities_need_no_joints(tmp_path: Path) -> None:
    layout = ActionLayout(("dx", "dy", "gripper"), (False, False, True), (-1.0,) * 3, (1.0,) * 3, (0.0,) * 3)
    spec = PolicySpec("toy", ("front",), 96, 4, layout, 10, 10, control_period_s=0.05)
    facts = robot(
        namespace="/arm",
        pictures=(PictureTopic("/arm/cam/front/image/compressed", COMPRESSED),),
        joints=(),
        arrays=(ArrayTopic("/arm/robot_state", 4),),
        commands=(CommandTopic("/arm/command", TWIST_STAMPED), CommandTopic("/arm/other", ARRAY)),
    )
    of = PolicyFacts("python:my.policy:make", spec, rate=20.0)
    path = tmp_path / "arm.yaml"
    write(path, of, facts, Said(), None)
    options = load.read(path, "/arm")
    assert options.observer.camera_topics == ("cam/front/image/compressed",)
    assert options.executor.command_topic == "command"
    assert options.observer.robot_state_topic == "robot_state" and options.executor.command_type == "twist"
    assert options.inference.cache_policy == "window"


@pytest.mark.parametrize(
    ("cameras", "topics", "expected"),
    [
        (("top", "wrist"), ("/overhead/image_raw", "/hand/image_raw"), (0, 1)),
        (("front",), ("/camera/color/image_raw",), (0,)),
        (("cam_high", "cam_left_wrist"), ("/left/wrist/image", "/high/image"), (1, 0)),
        (("top",), ("/top/image_raw", "/top/image_rect", "/top/image_raw/compressed", "/top/depth/image"), (0,)),
        (("top_depth",), ("/top/image_raw", "/top/depth/points"), (1,)),
        (("image", "wrist_image"), ("/wrist/image_raw", "/base/image_raw"), (1, 0)),
    ],
)
def test_cameras_are_matched_by_name(cameras: Any, topics: Any, expected: Any) -> None:
    kinds = [COMPRESSED if "compressed" in name else POINTS if "points" in name else IMAGE for name in topics]
    pictures = tuple(PictureTopic(name, kind) for name, kind in zip(topics, kinds, strict=True))
    of = policy()
    of = replace(of, spec=replace(of.spec, cameras=cameras))
    found = make_choices(of, robot(pictures=pictures), Said(fps=30.0)).cameras
    assert [choice.topic.name for choice in found] == [topics[index] for index in expected]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Said(cameras={"left": "/x"}), "--camera names left, the policy's cameras are top, wrist"),
        (
            Said(cameras={"top": "/x"}),
            "--camera top=/x: nobody publishes pictures there; picture topics are /top_camera",
        ),
        (Said(joints=("a",)), "the joints of /joint_states are .*; a is not among them: give --joints anew"),
        (Said(joints=SO_ARM[:5]), "5 names, expected 6"),
        (Said(command="/nowhere"), "--command /nowhere: nobody listens there"),
        (Said(units="turns"), "--units is 'turns', expected one of radians, degrees, range"),
        (Said(state_topic="/nowhere"), "--state-topic /nowhere: no state comes there"),
        (Said(fps=0.1), "0.1 actions a second, expected 1 to 200"),
    ],
)
def test_what_is_said_and_does_not_fit_is_one_sentence(said: Said, sentence: str) -> None:
    with pytest.raises(UnclearError, match=sentence):
        make_choices(policy(), robot(), said)


def test_a_description_tells_the_limits_of_joints() -> None:
    text = """<robot><joint name="a" type="revolute"><limit lower="-1" upper="2"/></joint>
        <joint name="b" type="continuous"/><joint name="c" type="prismatic"><limit upper="x"/></joint></robot>"""
    assert joint_ranges(text) == {"a": (-1.0, 2.0)}
    assert joint_ranges("<!DOCTYPE lolz [<!ENTITY a 'a'>]>" + text) == joint_ranges("<robot") == {}
