"""Scenes follow from their seed, can be solved, and are seen."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from streaming_vla.sim.so101.kinematics import PAN_AXIS_X_M
from streaming_vla.sim.so101.placement import Placement, place
from streaming_vla.sim.so101.scene import CUBE_HALF_M, CUBES, SQUARE_HALF_M

SEEDS = range(10_000, 10_150)


@pytest.fixture(scope="module")
def placements() -> list[Placement]:
    return [place(seed) for seed in SEEDS]


def test_the_same_seed_gives_the_same_scene_and_another_one_another() -> None:
    one, again, other = place(7), place(7), place(8)
    assert one.target == again.target
    np.testing.assert_array_equal(one.joints, again.joints)
    np.testing.assert_array_equal(one.square, again.square)
    for colour in CUBES:
        np.testing.assert_array_equal(one.cubes[colour], again.cubes[colour])
        assert not np.array_equal(one.cubes[colour], other.cubes[colour])


def test_objects_are_apart_and_within_reach(placements: list[Placement]) -> None:
    for placement in placements:
        spots = [cube[:2] for cube in placement.cubes.values()]
        for one, other in itertools.combinations(spots, 2):
            assert np.linalg.norm(one - other) > 2 * np.sqrt(2) * CUBE_HALF_M
        for spot in spots:
            assert np.abs(spot - placement.square).max() > SQUARE_HALF_M + np.sqrt(2) * CUBE_HALF_M
            assert 0.14 < np.hypot(spot[0] - PAN_AXIS_X_M, spot[1]) < 0.27


def test_every_colour_is_named_about_as_often(placements: list[Placement]) -> None:
    count = Counter(placement.target for placement in placements)
    assert set(count) == set(CUBES) and min(count.values()) > len(SEEDS) / 5


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed is -1, expected 0 or more"):
        place(-1)
