"""Where cubes, square and arm are at the start, and which cube is named: all of it follows from the seed.

The same seed places the same scene for every task: what is to be done, only the instruction tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.so101.kinematics import PAN_AXIS_X_M
from streaming_vla.sim.so101.scene import CUBES, SQUARE_HALF_M

Vector = npt.NDArray[np.float64]

_RADIUS_M = (0.15, 0.255)  # of a cube from the axis of shoulder_pan: there the fingers can point straight down
_SQUARE_RADIUS_M = (0.16, 0.25)
_ANGLE_RAD = 0.75
_APART_M = 0.075  # middles of two cubes: open jaws fit in between
_SQUARE_APART_M = SQUARE_HALF_M + 0.035  # middle of a cube from that of the square, on one of the two axes
_PUSH_M = 0.16  # longest way of the named cube to the square
_WAY_APART_M = 0.055  # other cubes from the line on which the named one is pushed
_BEHIND_M = 0.06  # the line begins so far behind the named cube, where the hand comes down
_HAND_RADIUS_M = (0.11, 0.30)  # where it can come down
HOME = (0.0, -1.22, 0.66, 1.52, -1.52, 0.10)  # joints at the start, rad: hand up and back, wrist camera outside
_HOME_SPREAD_RAD = 0.06
_ATTEMPTS = 10_000


@dataclass(frozen=True)
class Placement:
    """The start of an episode.

    Args:
        target: colour of the named cube.
        cubes: x, y in metres and yaw in rad of every cube, [3] by colour.
        square: x, y of the square's middle, [2] in metres.
        joints: of the arm, [6] in rad.
    """

    target: str
    cubes: dict[str, Vector]
    square: Vector
    joints: Vector


def place(seed: int) -> Placement:
    """Return the scene of `seed`.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")
    random = np.random.default_rng((seed, *b"so101"))
    for _ in range(_ATTEMPTS):
        places = [_polar(random, _RADIUS_M) for _ in CUBES]
        square = _polar(random, _SQUARE_RADIUS_M)
        target = int(random.integers(len(CUBES)))
        if _fits(places, square, target):
            yaws = random.uniform(-np.pi, np.pi, len(CUBES))
            cubes = {colour: np.append(spot, yaw) for colour, spot, yaw in zip(CUBES, places, yaws, strict=True)}
            joints = np.array(HOME) + random.uniform(-_HOME_SPREAD_RAD, _HOME_SPREAD_RAD, len(HOME))
            return Placement(tuple(CUBES)[target], cubes, square, joints)
    raise AssertionError(f"no scene fits for seed {seed}")


def _polar(random: np.random.Generator, radius_m: tuple[float, float]) -> Vector:
    radius, angle = random.uniform(*radius_m), random.uniform(-_ANGLE_RAD, _ANGLE_RAD)
    return np.array((PAN_AXIS_X_M + radius * np.cos(angle), radius * np.sin(angle)))


def _fits(places: list[Vector], square: Vector, target: int) -> bool:
    """Whether all objects are apart and the named cube can be pushed straight into the square."""
    pairs = [(0, 1), (0, 2), (1, 2)]
    if any(np.linalg.norm(places[a] - places[b]) < _APART_M for a, b in pairs):
        return False
    if any(np.abs(spot - square).max() < _SQUARE_APART_M for spot in places):
        return False
    way = square - places[target]
    length = np.linalg.norm(way)
    behind = places[target] - way / length * _BEHIND_M
    radius = np.hypot(behind[0] - PAN_AXIS_X_M, behind[1])
    if length > _PUSH_M or not _HAND_RADIUS_M[0] <= radius <= _HAND_RADIUS_M[1]:
        return False
    others = [spot for index, spot in enumerate(places) if index != target]
    return all(_distance(spot, behind, square) >= _WAY_APART_M for spot in others)


def _distance(spot: Vector, begin: Vector, end: Vector) -> float:
    """Return the distance of a point from a line between two, all [2] in metres."""
    way = end - begin
    share = np.clip((spot - begin) @ way / (way @ way), 0.0, 1.0)
    return float(np.linalg.norm(spot - begin - share * way))
