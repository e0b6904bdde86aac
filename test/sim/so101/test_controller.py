"""The controller follows trajectories as joint_trajectory_controller does, and holds what it should."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_vla.sim.so101.controller import ControllerOptions, JointTrajectoryController
from streaming_vla.sim.so101.trajectory import Trajectory, TrajectoryPoint, TrajectoryRefused

JOINTS = ("a", "b")


def make(**options: float) -> JointTrajectoryController:
    return JointTrajectoryController(JOINTS, np.array([0.0, 1.0]), ControllerOptions(**options))  # type: ignore[arg-type]


def to(*positions: float, within_s: float = 1.0, start_s: float | None = None) -> Trajectory:
    return Trajectory(JOINTS, (TrajectoryPoint(within_s, np.array(positions)),), start_s)


def test_it_goes_straight_from_the_present_setpoint_and_then_holds() -> None:
    controller = make()
    assert controller.update(3.0) == pytest.approx([0.0, 1.0])
    controller.accept(to(2.0, 3.0), 5.0)
    for time_s, expected in ((5.0, [0.0, 1.0]), (5.25, [0.5, 1.5]), (6.0, [2.0, 3.0]), (60.0, [2.0, 3.0])):
        assert controller.update(time_s) == pytest.approx(expected)


def test_a_new_trajectory_replaces_the_old_one_from_where_the_setpoint_is() -> None:
    controller = make()
    controller.accept(to(2.0, 3.0), 0.0)
    controller.accept(to(0.0, 0.0, within_s=0.5), 0.5)  # nobody has asked for the setpoint in between
    assert controller.update(0.5) == pytest.approx([1.0, 2.0])
    assert controller.update(0.75) == pytest.approx([0.5, 1.0])
    assert controller.update(2.0) == pytest.approx([0.0, 0.0])


def test_with_velocities_the_setpoint_keeps_its_speed_when_it_is_preempted() -> None:
    controller = make(moving_end=True)
    controller.accept(Trajectory(JOINTS, (TrajectoryPoint(1.0, np.array([1.0, 1.0]), np.array([1.0, 0.0])),)), 0.0)
    before = controller.update(0.8)
    earlier = controller.update(0.8 - 1e-4)
    controller.update(0.8)
    controller.accept(Trajectory(JOINTS, (TrajectoryPoint(1.0, np.array([-1.0, 1.0]), np.array([0.0, 0.0])),)), 0.8)
    later = controller.update(0.8 + 1e-4)
    assert (later - before)[0] == pytest.approx((before - earlier)[0], rel=1e-2)
    assert (later - before)[0] > 0.0  # though the goal lies behind


def test_a_start_in_the_future_is_reached_on_time() -> None:
    controller = make()
    controller.accept(to(2.0, 1.0, within_s=1.0, start_s=11.0), 10.0)
    assert controller.update(11.0) == pytest.approx([1.0, 1.0])
    assert controller.update(12.0) == pytest.approx([2.0, 1.0])


def test_one_that_is_half_over_is_joined_where_it_is() -> None:
    points = tuple(TrajectoryPoint(time_s, np.array([time_s, 1.0])) for time_s in (1.0, 2.0, 3.0))
    controller = make()
    controller.accept(Trajectory(JOINTS, points, 0.0), 2.5)
    assert controller.update(2.5) == pytest.approx([2.5, 1.0])


def test_one_that_lies_in_the_past_is_refused_and_the_old_one_goes_on() -> None:
    controller = make()
    controller.accept(to(2.0, 3.0), 10.0)
    with pytest.raises(TrajectoryRefused, match=r"it ended 0\.500 s ago"):
        controller.accept(to(9.0, 9.0, within_s=1.0, start_s=8.5), 10.0)
    with pytest.raises(TrajectoryRefused, match="joint c is unknown"):
        controller.accept(Trajectory(("a", "c"), (TrajectoryPoint(1.0, np.zeros(2)),)), 10.2)
    assert controller.update(10.5) == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("names", [(), JOINTS])
def test_an_empty_trajectory_cancels_and_holds_the_setpoint(names: tuple[str, ...]) -> None:
    controller = make()
    controller.accept(to(2.0, 3.0), 0.0)
    controller.accept(Trajectory(names, ()), 0.5)
    for time_s in (0.5, 0.7, 5.0):
        assert controller.update(time_s) == pytest.approx([1.0, 2.0])


def test_an_empty_trajectory_of_an_unknown_joint_is_refused() -> None:
    with pytest.raises(TrajectoryRefused, match="joint c is unknown"):
        make().accept(Trajectory(("c",), ()), 0.0)


def test_joints_that_are_left_out_keep_their_setpoint() -> None:
    controller = make(partial=True)
    controller.accept(Trajectory(("b",), (TrajectoryPoint(1.0, np.array([2.0])),)), 0.0)
    assert controller.update(0.5) == pytest.approx([0.0, 1.5])


def test_names_in_another_order_are_put_in_order() -> None:
    controller = make()
    controller.accept(Trajectory(("b", "a"), (TrajectoryPoint(1.0, np.array([5.0, 7.0])),)), 0.0)
    assert controller.update(1.0) == pytest.approx([7.0, 5.0])


def test_a_time_out_is_counted_once_and_the_setpoint_is_held() -> None:
    controller = make(timeout_s=0.5)
    controller.update(100.0)
    assert controller.timeouts == 0  # nothing was promised
    controller.accept(to(2.0, 3.0), 100.0)
    controller.update(101.4)
    assert controller.timeouts == 0
    for time_s in (101.6, 102.0, 150.0):
        assert controller.update(time_s) == pytest.approx([2.0, 3.0])
    assert controller.timeouts == 1
    controller.accept(to(0.0, 0.0), 160.0)
    controller.update(170.0)
    assert controller.timeouts == 2


def test_a_point_at_once_is_a_step() -> None:
    controller = make()
    controller.accept(to(2.0, 3.0, within_s=0.0), 4.0)
    assert controller.update(4.0) == pytest.approx([2.0, 3.0])
