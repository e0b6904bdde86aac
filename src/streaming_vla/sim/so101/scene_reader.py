"""Reads from the physics what rules and experts look at: where the cubes are, and what the arm touches."""

from __future__ import annotations

from typing import Any

import numpy as np

from streaming_vla.sim.so101.arm import ARM_BIT, FIXED_JAW, MOVING_JAW
from streaming_vla.sim.so101.placement import Placement
from streaming_vla.sim.so101.scene import CUBES, cube_joint
from streaming_vla.sim.so101.tasks import Scene

_NOTHING, _ARM, _FIXED_JAW, _MOVING_JAW, _FIRST_CUBE = range(-1, 4)  # whom a geom belongs to; cubes come last


class SceneReader:
    """Looks at a `mujoco.MjData` whose derived quantities are up to date."""

    def __init__(self, model: Any, data: Any) -> None:
        self._data = data
        self._cubes = {colour: model.body(cube_joint(colour)).id for colour in CUBES}
        self._owner = np.array([_owner(model.geom(index)) for index in range(model.ngeom)])

    def scene(self, placement: Placement) -> Scene:
        """Return the present."""
        touching = self._touching()
        names = tuple(CUBES)
        return Scene(
            placement.target,
            {colour: self._data.xpos[body].copy() for colour, body in self._cubes.items()},
            {colour: float(np.linalg.norm(self._data.cvel[body][3:])) for colour, body in self._cubes.items()},
            self._data.xmat[self._cubes[placement.target]].reshape(3, 3).copy(),
            placement.square,
            frozenset(names[cube] for cube in touching),
            frozenset(names[cube] for cube, by in touching.items() if {_FIXED_JAW, _MOVING_JAW} <= by),
        )

    def _touching(self) -> dict[int, set[int]]:
        """Return the parts of the arm that touch a cube, by its number."""
        pairs = np.sort(self._owner[self._data.contact.geom], axis=1)
        of_arm = (pairs[:, 0] > _NOTHING) & (pairs[:, 0] < _FIRST_CUBE) & (pairs[:, 1] >= _FIRST_CUBE)
        touching: dict[int, set[int]] = {}
        for part, cube in pairs[of_arm]:
            touching.setdefault(int(cube) - _FIRST_CUBE, set()).add(int(part))
        return touching


def _owner(geom: Any) -> int:
    if geom.name in {cube_joint(colour) for colour in CUBES}:
        return _FIRST_CUBE + [cube_joint(colour) for colour in CUBES].index(geom.name)
    if geom.contype != ARM_BIT:
        return _NOTHING
    if geom.name.startswith(FIXED_JAW):
        return _FIXED_JAW
    return _MOVING_JAW if geom.name.startswith(MOVING_JAW) else _ARM
