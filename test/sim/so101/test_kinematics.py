"""Inverse kinematics bring the hand where they are told to, within the joints' limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_vla.sim.so101.kinematics import PAN_AXIS_X_M, ArmKinematics, HandPose
from streaming_vla.sim.so101.placement import HOME
from streaming_vla.sim.so101.scene import scene_model

TOOL = np.array((0.0, 0.0, -0.1))


@pytest.fixture(scope="module")
def arm() -> ArmKinematics:
    return ArmKinematics()


@given(
    radius=st.floats(0.14, 0.25), angle=st.floats(-0.9, 0.9), height=st.floats(0.015, 0.05), yaw=st.floats(-0.7, 0.7)
)
def test_over_the_table_the_fingers_point_straight_down(
    arm: ArmKinematics, radius: float, angle: float, height: float, yaw: float
) -> None:
    place = np.array((PAN_AXIS_X_M + radius * np.cos(angle), radius * np.sin(angle), height))
    jaw_yaw = angle + np.pi / 2 + yaw
    joints = arm.solve(HandPose(place, 0.0, jaw_yaw, TOOL), np.array(HOME[:5]))
    joints = arm.solve(HandPose(place, 0.0, jaw_yaw, TOOL), joints)
    _, axes = arm.hand(joints)
    assert arm.tool(joints, TOOL) == pytest.approx(place, abs=2e-3)
    assert axes[2, 2] > np.cos(0.06)
    assert abs(axes[:2, 0] @ (np.cos(jaw_yaw), np.sin(jaw_yaw))) > np.cos(0.06)


@given(st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3), st.floats(-1.0, 1.5), st.floats(-4.0, 4.0))
def test_it_never_leaves_the_limits_wherever_it_is_sent(
    arm: ArmKinematics, place: list[float], tilt: float, yaw: float
) -> None:
    joints = arm.solve(HandPose(np.array(place), tilt, yaw, TOOL), np.array(HOME[:5]))
    low, high = scene_model().jnt_range[:5].T
    assert np.isfinite(joints).all()
    assert (joints >= low).all() and (joints <= high).all()


def test_another_tool_is_brought_to_the_same_place(arm: ArmKinematics) -> None:
    place, tool = np.array((0.22, 0.05, 0.03)), np.array((0.012, 0.0, -0.097))
    joints = arm.solve(HandPose(place, 0.0, 1.8, tool), np.array(HOME[:5]))
    assert arm.tool(joints, tool) == pytest.approx(place, abs=2e-3)
    assert np.linalg.norm(arm.tool(joints, TOOL) - place) > 0.01
