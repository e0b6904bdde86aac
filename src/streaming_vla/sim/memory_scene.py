"""How the memory tasks look: balls of light that are drawn into a scene at render time.

Nothing is added to the simulated model, so nothing can be touched. The places are chosen for camera `corner2`, where
the arm comes from the left and from behind: the lamp hangs at the top right, the decoy lies at the bottom right, and
the goals lie between the arm and the camera. At 96 x 96 px a lamp is 11 px wide, a goal 7 or more, the marker 4 to 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Point = tuple[float, float, float]  # x, y, z in metres
Colour = tuple[float, float, float]  # red, green, blue in [0, 1]

GREEN: Colour = (0.0, 0.8, 0.1)
BLUE: Colour = (0.05, 0.2, 1.0)
YELLOW: Colour = (1.0, 0.85, 0.0)
WHITE: Colour = (1.0, 1.0, 1.0)
DARK: Colour = (0.08, 0.08, 0.08)  # a lamp that is off
COLOURS = (GREEN, BLUE, YELLOW)

LAMP: Point = (0.09, 1.02, 0.55)
DECOY: Point = (0.47, 0.56, 0.05)
LAMP_RADIUS_M = 0.06
DECOY_RADIUS_M = 0.05
GOAL_RADIUS_M = 0.045
MARKER_RADIUS_M = 0.03
CENTRE = (-0.03, 0.64)  # of the hand's wandering, x and y
_PLACES = {  # of the goals, x and y; no straight way from the wandering hand to one of them passes another
    3: ((0.13, 0.41), (0.30, 0.62), (0.13, 0.88)),
    4: ((0.13, 0.41), (0.27, 0.52), (0.34, 0.72), (0.13, 0.88)),
}
_EMISSION = 0.6  # a ball glows, so that its colour is the same from all sides


@dataclass(frozen=True)
class Ball:
    """One ball of light."""

    position: Point
    radius_m: float
    colour: Colour


def places(count: int) -> list[Point]:
    """Return `count` (3 or 4) places for goals on the table, from the arm's side to the far side."""
    return [(x, y, GOAL_RADIUS_M) for x, y in _PLACES[count]]


def hide_reach(model: Any) -> None:
    """Make the puck and the goal of the reach scene invisible in `model`."""
    model.geom_rgba[model.geom("objGeom").id, 3] = 0.0
    model.site_rgba[model.site("goal").id, 3] = 0.0


def draw(scene: Any, balls: Iterable[Ball]) -> None:
    """Add balls to an updated `mujoco.MjvScene`; the next update removes them."""
    import mujoco

    for ball in balls:
        geom = scene.geoms[scene.ngeom]
        size = np.array((ball.radius_m, 0.0, 0.0))
        colour = np.array((*ball.colour, 1.0), dtype=np.float32)
        kind = mujoco.mjtGeom.mjGEOM_SPHERE
        mujoco.mjv_initGeom(geom, kind, size, np.array(ball.position), np.eye(3).ravel(), colour)
        geom.emission = _EMISSION
        scene.ngeom += 1
