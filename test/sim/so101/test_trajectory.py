"""Trajectories: what is refused, and where they are between their points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BPoly

from streaming_vla.sim.so101.trajectory import (
    Trajectory,
    TrajectoryPoint,
    TrajectoryRefused,
    check,
    interpolate,
    sample,
)

JOINTS = ("a", "b")
NAN, INFINITY = math.nan, math.inf


def point(time_s: float, *values: list[float]) -> TrajectoryPoint:
    return TrajectoryPoint(time_s, *(np.array(value) for value in values))


@pytest.mark.parametrize(
    ("names", "points", "sentence"),
    [
        (("a", "c"), [point(1, [0.0, 0.0])], "joint c is unknown: expected a, b"),
        (("a", "a"), [point(1, [0.0, 0.0])], "joint a stands twice"),
        (("a",), [point(1, [0.0])], "joint b is missing"),
        ((), [point(1, [])], "joint a, b is missing"),
        (JOINTS, [point(1, [0.0])], "point 0 has 1 positions: expected one for each of the 2"),
        (JOINTS, [point(1, [])], "point 0 has 0 positions"),
        (JOINTS, [point(1, [0.0, 0.0]), point(2, [0.0, 0.0], [1.0])], "point 1 has 1 velocities"),
        (JOINTS, [point(1, [0.0, NAN])], "point 0 has positions that are not finite"),
        (JOINTS, [point(1, [0.0, 0.0], [INFINITY, 0.0])], "point 0 has velocities that are not finite"),
        (JOINTS, [point(1, [0.0, 0.0]), point(1, [0.0, 0.0])], "expected times that rise"),
        (JOINTS, [point(2, [0.0, 0.0]), point(1, [0.0, 0.0])], "point 1 has time_from_start 1 s"),
        (JOINTS, [point(-0.1, [0.0, 0.0])], "point 0 has time_from_start -0.1 s"),
        (JOINTS, [point(NAN, [0.0, 0.0])], "time_from_start that is not finite"),
        (JOINTS, [point(1, [0.0, 0.0], [0.1, 0.0])], "the last point has a velocity"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    names: tuple[str, ...], points: list[TrajectoryPoint], sentence: str
) -> None:
    with pytest.raises(TrajectoryRefused, match=sentence):
        check(Trajectory(names, tuple(points)), JOINTS, partial=False, moving_end=False)


def test_accelerations_need_velocities() -> None:
    lonely = TrajectoryPoint(1.0, np.zeros(2), None, np.zeros(2))
    with pytest.raises(TrajectoryRefused, match="accelerations without velocities"):
        check(Trajectory(JOINTS, (lonely,)), JOINTS, partial=False, moving_end=False)


def test_options_allow_what_they_name() -> None:
    check(Trajectory(("b",), (point(1, [0.0]),)), JOINTS, partial=True, moving_end=False)
    check(Trajectory(JOINTS, (point(1, [0.0, 0.0], [0.1, 0.0]),)), JOINTS, partial=False, moving_end=True)


VALUES = st.lists(st.floats(-3.0, 3.0), min_size=2, max_size=2)


@given(st.lists(VALUES, min_size=6, max_size=6), st.integers(1, 3), st.floats(0.02, 5.0), st.floats(0.0, 1.0))
def test_it_is_the_polynomial_that_both_ends_give(
    values: list[list[float]], order: int, duration: float, share: float
) -> None:
    begin, end = point(1.0, *values[:order]), point(1.0 + duration, *values[3 : 3 + order])
    here = interpolate(begin, end, 1.0 + share * duration)
    for joint in range(2):
        conditions = [[row[joint] for row in values[first : first + order]] for first in (0, 3)]
        truth = BPoly.from_derivatives([0.0, duration], conditions)
        for given_value, derivative in ((here.positions, 0), (here.velocities, 1), (here.accelerations, 2)):
            assert given_value is not None
            scale = 1.0 + 100.0 / duration**derivative
            expected = truth(share * duration, nu=derivative)
            assert given_value[joint] == pytest.approx(expected, abs=1e-9 * scale, rel=1e-6)


def test_the_poorer_end_decides_the_order() -> None:
    begin, end = point(0.0, [0.0], [5.0]), point(1.0, [1.0])
    assert interpolate(begin, end, 0.5).positions == pytest.approx([0.5])


def test_before_its_begin_and_after_its_end_it_rests() -> None:
    points = [point(1.0, [1.0], [2.0]), point(2.0, [3.0], [2.0])]
    for time_s, position in ((0.0, 1.0), (1.0, 1.0), (2.0, 3.0), (9.0, 3.0)):
        here = sample(points, time_s)
        assert here.positions == pytest.approx([position])
    assert sample(points, 9.0).velocities == pytest.approx([0.0])
