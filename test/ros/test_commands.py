"""Commands as messages: what each type sends while playing, holding, decelerating and stopping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time

from streaming_vla.commands.action_reader import TRAJECTORY, ActionReader
from streaming_vla.commands.action_reader import ActionOptions as CommandUnits
from streaming_vla.commands.joint import TrajectoryWriter
from streaming_vla.commands.types import WRITERS, TwistWriter
from streaming_vla.commands.writer import CommandWriter
from streaming_vla.machines.events import Command, CommandKind
from streaming_vla.machines.executor_options import ExecutorOptions
from streaming_vla.options.shared import ARRAY, JOINTS, layout_values
from streaming_vla.policies.layout import ActionLayout

STAMP = Time(sec=7)
TYPE_NAMES = {"array": ARRAY, "trajectory": TRAJECTORY, "joints": JOINTS}
PLAY, HOLD, DECELERATE, STOP = CommandKind.PLAY, CommandKind.HOLD, CommandKind.DECELERATE, CommandKind.STOP


def layout(absolute: tuple[bool, ...]) -> ActionLayout:
    names = tuple(f"joint_{index}" for index in range(len(absolute)))
    size = len(absolute)
    return ActionLayout(names, absolute, (-1.0,) * size, (1.0,) * size, (0.0,) * size)


def options(
    absolute: tuple[bool, ...], scale: float = 1.0, lead: float = 100.0, kept: tuple[bool, ...] = ()
) -> ExecutorOptions:
    size = len(absolute)
    return ExecutorOptions(
        **layout_values(layout(absolute)),
        scale=(scale,) * size,
        command_frame="base",
        maximum_lead=(lead,) * size,
        keep_when_stopped=kept or (False,) * size,
        velocity_limit=(20.0,) * size,
        jump_limit=(2.0,) * size,
    )


def writer(kind: str, absolute: tuple[bool, ...], scale: float = 1.0) -> CommandWriter:
    return WRITERS[kind](options(absolute, scale))


def positions(message: Any) -> list[float]:
    return list(message.points[0].positions if hasattr(message, "points") else message.position)


def command(kind: CommandKind, *values: float, progress: float = 0.0) -> Command:
    return Command(kind, np.array(values), progress)


def test_array_is_the_scaled_action() -> None:
    array = writer("array", (False, True), scale=2.0)
    assert array.write(command(PLAY, 0.5, 1.0), STAMP).data.tolist() == [1.0, 2.0]
    assert array.write(command(HOLD, 0.0, 1.0), STAMP).data.tolist() == [0.0, 2.0]
    assert not array.has_rest


@pytest.mark.parametrize("kind", ["array", "trajectory", "joints"])
def test_an_offset_counts_on_the_way_out_and_back(kind: str) -> None:
    degrees = options((True, True), scale=0.1).changed(offset=(2.0, -1.0))
    out = WRITERS[kind](degrees)
    out.measure({"joint_0": 2.0, "joint_1": -0.5})
    message = out.write(command(PLAY, 0.5, 1.0), STAMP)
    assert (list(message.data) if kind == "array" else positions(message)) == pytest.approx([2.05, -0.9])
    reader = ActionReader(
        CommandUnits(degrees.action_names, (True, True), degrees.joints, degrees.scale, 0.05, degrees.offset),
        {"/command": TYPE_NAMES[kind]},
    )
    reader.take("/command", message, 0.0)
    reader.begin(0.0)
    read = reader.action(0.05)
    assert read is not None and read.tolist() == pytest.approx([0.5, 1.0])
    if kind != "array":
        measured, sent = out.measured(), out.sent()
        assert measured is not None and measured.tolist() == pytest.approx([0.0, 5.0])
        assert sent is not None and sent.tolist() == pytest.approx([0.5, 1.0])


def test_what_a_gripper_takes_has_its_offset() -> None:
    out = TwistWriter(options((False, True), scale=0.5).changed(offset=(0.0, 1.0)))
    assert out.rest(command(HOLD, 0.0, 1.0)).data.tolist() == [1.5]


def test_an_offset_is_for_absolute_dimensions_and_for_each() -> None:
    with pytest.raises(ValueError, match="offset of 'joint_0' is 1, but 'joint_0' is a change"):
        options((False, True)).changed(offset=(1.0,))
    with pytest.raises(ValueError, match="offset has 3 values, expected one for all or one for each"):
        options((True, True)).changed(offset=(0.0,) * 3)


def test_twist_is_zero_unless_playing() -> None:
    twist = writer("twist", (False, False, False, True), scale=0.2)
    play = twist.write(command(PLAY, 1.0, -0.5, 0.0, 1.0), STAMP)
    assert (play.twist.linear.x, play.twist.linear.y, play.twist.angular.x) == (0.2, -0.1, 0.0)
    assert (play.header.frame_id, play.header.stamp.sec) == ("base", 7)
    for kind in (HOLD, DECELERATE, STOP):
        linear = twist.write(command(kind, 1.0, 1.0, 1.0, 1.0), STAMP).twist.linear
        assert (linear.x, linear.y, linear.z) == (0.0, 0.0, 0.0)
    assert twist.rest(command(HOLD, 0.0, 0.0, 0.0, 1.0)).data.tolist() == [0.2]


@pytest.mark.parametrize("absolute", [(True, True), (False,) * 7])
def test_twist_needs_one_to_six_changes(absolute: tuple[bool, ...]) -> None:
    with pytest.raises(ValueError, match="twist takes 1 to 6"):
        TwistWriter(options(absolute))


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_changes_add_up_from_the_measured_pose(kind: str) -> None:
    joints = writer(kind, (False, True), scale=0.1)
    joints.measure({"joint_1": 9.0, "other": 0.0, "joint_0": 1.0})
    assert positions(joints.write(command(PLAY, 1.0, 0.5), STAMP)) == pytest.approx([1.1, 0.05])
    joints.measure({"joint_0": 1.02, "joint_1": 0.0})
    assert positions(joints.write(command(PLAY, 1.0, 0.6), STAMP)) == pytest.approx([1.2, 0.06])
    assert positions(joints.write(command(HOLD, 0.0, 0.6), STAMP)) == pytest.approx([1.2, 0.06])


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_a_deceleration_ends_at_the_measured_pose(kind: str) -> None:
    joints = writer(kind, (True,))
    joints.measure({"joint_0": 0.4})
    joints.write(command(PLAY, 1.0), STAMP)
    sent = [positions(joints.write(command(DECELERATE, 1.0, progress=p), STAMP))[0] for p in (0.0, 0.5, 1.0)]
    assert sent == pytest.approx([1.0, 0.7, 0.4])
    joints.measure({"joint_0": 0.3})
    assert positions(joints.write(command(STOP, 1.0), STAMP)) == [0.3]


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_motion_goes_on_from_where_a_deceleration_was_left(kind: str) -> None:
    joints = writer(kind, (False,))
    joints.measure({"joint_0": 0.0})
    joints.write(command(PLAY, 1.0), STAMP)
    joints.write(command(DECELERATE, 0.0, progress=0.5), STAMP)
    assert positions(joints.write(command(PLAY, 0.25), STAMP)) == [0.75]
    joints.write(command(STOP, 0.0), STAMP)
    joints.measure({"joint_0": 3.0})
    assert positions(joints.write(command(PLAY, 0.25), STAMP)) == [3.25]


def test_changes_without_a_measured_pose_are_refused() -> None:
    joints = writer("joints", (False,))
    joints.measure({"elbow": 0.0})
    with pytest.raises(ValueError, match=r"joint joint_0 is not in joint_states \(they have elbow\): set joint_names"):
        joints.write(command(PLAY, 1.0), STAMP)


def test_a_trajectory_ends_by_itself() -> None:
    trajectory = writer("trajectory", (True,))
    assert isinstance(trajectory, TrajectoryWriter)
    message = trajectory.write(command(PLAY, 0.5), STAMP)
    assert len(message.points) == 1
    assert message.points[0].time_from_start.nanosec == 50_000_000
    assert (message.header.stamp.sec, message.joint_names) == (0, ["joint_0"])


def test_the_newest_target_is_told_in_action_units() -> None:
    joints = writer("joints", (True,), scale=0.5)
    assert joints.sent() is None
    joints.measure({"joint_0": 0.0})
    joints.write(command(PLAY, 1.0), STAMP)
    joints.write(command(DECELERATE, 1.0, progress=0.5), STAMP)
    assert joints.sent() == pytest.approx([0.5])
    assert writer("array", (True,)).sent() is None


def test_a_joint_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="joint_names has left twice, expected one joint for each dimension"):
        options((True, True)).changed(joint_names=("left", "left"))


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match="scale has 1 values, expected one for each of joint_0, joint_1"):
        options((True, True)).changed(scale=(1.0,))


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_a_gripper_with_a_controller_of_its_own_gets_its_own_command(kind: str) -> None:
    arm = WRITERS[kind](options((True, False, True), scale=0.5).changed(joint_names=("shoulder", "elbow", "")))
    assert arm.has_rest and not writer(kind, (True, False, True)).has_rest
    assert arm.measure({"elbow": 1.0, "shoulder": 0.2}) == ""
    assert arm.heard() and arm.measured() == pytest.approx([0.4, 2.0, 0.0]), "the gripper from where it begins"
    play = command(PLAY, 0.6, 0.1, 0.8)
    message = arm.write(play, STAMP)
    assert list(message.joint_names if kind == "trajectory" else message.name) == ["shoulder", "elbow"]
    assert positions(message) == pytest.approx([0.3, 1.05])
    assert arm.rest(play).data.tolist() == [0.4]
    arm.measure({"elbow": 1.0, "shoulder": 0.2})
    for each in (HOLD, DECELERATE, STOP):
        kept = command(each, 0.6, 0.0, 0.8, progress=1.0)
        assert len(positions(arm.write(kept, STAMP))) == 2
        assert arm.rest(kept).data.tolist() == [0.4], "it keeps its grip"


def test_joint_types_refuse_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="joint_names of 'joint_0' is empty, but 'joint_0' is a change"):
        WRITERS["joints"](options((False, True)).changed(joint_names=("", "left")))
    with pytest.raises(ValueError, match="joint_names names no joint"):
        WRITERS["joints"](options((True, True)).changed(joint_names=("", "")))
    with pytest.raises(ValueError, match="scale of 'joint_0' is 0"):
        WRITERS["joints"](options((True,), scale=0.0))
    with pytest.raises(ValueError, match="keep_when_stopped of 'joint_0' is true, but 'joint_0' is a change"):
        WRITERS["joints"](options((False,), kept=(True,)))


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_the_target_of_a_blocked_joint_does_not_run_away(kind: str) -> None:
    joints = WRITERS[kind](options((False, True), lead=0.25, kept=(False, True)))
    joints.measure({"joint_0": 1.0, "joint_1": 0.0})
    sent = [positions(joints.write(command(PLAY, 0.1, 1.0), STAMP)) for _ in range(6)]
    assert [target for target, _ in sent] == pytest.approx([1.1, 1.2, 1.25, 1.25, 1.25, 1.25])
    assert {other for _, other in sent} == {1.0}, "a gripper presses as it is told"
    assert joints.clamped == {"limit_lead.joint_0": 4}
    assert positions(joints.write(command(PLAY, -0.1, 1.0), STAMP))[0] == pytest.approx(1.15), "it turns at once"
    joints.measure({"joint_0": 0.5, "joint_1": 0.0})  # pushed away
    assert positions(joints.write(command(HOLD, 0.0, 1.0), STAMP))[0] == pytest.approx(0.75)


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_an_absolute_target_is_bounded_by_the_lead_too(kind: str) -> None:
    joints = WRITERS[kind](options((True,), lead=0.25))
    joints.measure({"joint_0": 0.0})
    assert positions(joints.write(command(PLAY, 1.0), STAMP)) == [0.25]
    joints.measure({"joint_0": 0.9})
    assert positions(joints.write(command(HOLD, 1.0), STAMP)) == [1.0]
    assert joints.clamped == {"limit_lead.joint_0": 1}


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_a_gripper_keeps_its_grip_when_the_arm_stops(kind: str) -> None:
    joints = WRITERS[kind](options((False, True), kept=(False, True)))
    joints.measure({"joint_0": 0.0, "joint_1": 0.4})  # it is held open by what it grips
    joints.write(command(PLAY, 0.5, 0.1), STAMP)
    for progress in (0.0, 0.5, 1.0):
        assert positions(joints.write(command(DECELERATE, 0.0, 0.1, progress=progress), STAMP))[1] == 0.1
    for _ in range(2):  # an error, then the end of the process
        assert positions(joints.write(command(STOP, 0.0, 0.1), STAMP)) == [0.0, 0.1]


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
@pytest.mark.parametrize("absolute", [False, True])
def test_an_arm_that_is_silent_stops_where_it_was_sent_to(kind: str, absolute: bool) -> None:
    joints = writer(kind, (absolute, True))
    joints.measure({"joint_0": 0.0, "joint_1": 0.0})
    joints.write(command(PLAY, 0.3, 1.0), STAMP)
    hold = command(HOLD, 0.3 * absolute, 1.0)
    joints.lose()
    joints.measure({"joint_1": 0.9})  # a gripper alone does not tell where the arm is
    rungs = [hold, *(replace(hold, kind=DECELERATE, progress=progress) for progress in (0.0, 0.5, 1.0))]
    stops = [replace(hold, kind=STOP)] * 2
    for each in (*rungs, *stops):
        joints.lose()  # told at every command while the robot is silent
        assert positions(joints.write(each, STAMP)) == [0.3, 1.0]
    assert joints.measured() is None and not joints.heard()
    joints.measure({"joint_0": 0.1})
    assert joints.heard()
    assert joints.measured() == pytest.approx([0.1, 0.9]), "each was heard since"
    assert positions(joints.write(replace(hold, kind=STOP), STAMP)) == [0.1, 0.9]


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_an_arm_that_falls_silent_while_it_is_blocked_or_stops_keeps_what_it_was_sent(kind: str) -> None:
    blocked = WRITERS[kind](options((True,), lead=0.25))
    blocked.measure({"joint_0": 0.0})
    blocked.write(command(PLAY, 1.0), STAMP)
    stopping = writer(kind, (True,))
    stopping.measure({"joint_0": 0.0})
    stopping.write(command(PLAY, 0.4), STAMP)
    stopping.write(command(DECELERATE, 0.4, progress=0.9), STAMP)
    for joints, target in ((blocked, 0.25), (stopping, 0.04)):
        joints.lose()
        for each in (HOLD, DECELERATE, STOP):
            assert positions(joints.write(command(each, 1.0, progress=0.95), STAMP)) == pytest.approx([target])


def test_the_measured_pose_is_told_in_action_units() -> None:
    joints = writer("joints", (True, False), scale=0.5)
    assert joints.measured() is None
    joints.measure({"joint_0": 0.4, "joint_1": -1.0})
    assert joints.measured() == pytest.approx([0.8, -2.0])
    assert writer("array", (True,)).measured() is None


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_a_new_episode_starts_from_the_measured_pose(kind: str) -> None:
    joints = writer(kind, (False,))
    joints.measure({"joint_0": 0.0})
    joints.write(command(PLAY, 1.0), STAMP)
    joints.write(command(HOLD, 0.0), STAMP)
    joints.begin()
    joints.measure({"joint_0": 3.0})  # somebody moved the robot in between
    assert positions(joints.write(command(PLAY, 0.5), STAMP)) == [3.5]


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_joints_that_are_not_finite_are_no_sign_of_life(kind: str) -> None:
    joints = writer(kind, (False,))
    assert "joint_0 is not finite" in joints.measure({"joint_0": float("nan")})
    assert joints.measure({"joint_0": 1.0, "other": float("nan")}) == ""
    assert "not finite" in joints.measure({"joint_0": float("inf")})
    assert positions(joints.write(command(PLAY, 0.5), STAMP)) == [1.5], "from the last good position"


@pytest.mark.parametrize("kind", ["trajectory", "joints"])
def test_the_robot_is_heard_when_every_joint_was_measured_anew(kind: str) -> None:
    joints = writer(kind, (True, True))
    assert not joints.heard(), "nothing was measured"
    joints.measure({"joint_0": 0.1, "joint_1": 0.2})
    assert joints.heard()
    assert not joints.heard(), "nothing was measured since"
    for _ in range(3):  # the driver of joint_0 has died
        assert joints.measure({"joint_1": 0.3}) == ""
        assert not joints.heard()
    assert joints.measure({"joint_0": float("nan"), "joint_1": 0.3})
    assert not joints.heard()
    joints.measure({"joint_0": 0.1})  # the drivers take turns
    assert joints.heard()
    joints.measure({"joint_0": 0.1, "other": 0.0})
    assert not joints.heard()
    joints.measure({"joint_1": 0.2})
    assert joints.heard()
    joints.measure({})
    assert not joints.heard()


@pytest.mark.parametrize("kind", ["array", "twist"])
def test_types_without_joints_hear_the_robot_in_every_message(kind: str) -> None:
    other = writer(kind, (False,))
    for positions_ in ({"anything": 0.0}, {}):
        assert other.measure(positions_) == "" and other.heard()
