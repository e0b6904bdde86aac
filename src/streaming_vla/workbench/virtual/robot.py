"""The simulated Meta-World robot in a virtual run: one environment step of 12.5 ms per control period."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streaming_vla.machines.events import Command
from streaming_vla.policies.layout import Vector
from streaming_vla.sim.frames import encode_frame
from streaming_vla.sim.metaworld import SUBSTEPS, MetaWorldRobot

ROUNDING = 1e-6  # of a substep; keeps floor() from losing one to float noise


class MetaWorldPlant:
    """Physics that go on by themselves: a command is taken when it comes, without one the arm holds.

    `hand` holds the hand's position, x, y, z in metres, at the end of every control period.

    Args:
        robot: reset to its task already.
        cameras: that are looked at, in the policy's order.
        image_size: of the policy's pictures, pixels.
        control_period_s: an environment step takes so long on the virtual clock.
    """

    def __init__(
        self, robot: MetaWorldRobot, cameras: tuple[str, ...], image_size: int, control_period_s: float
    ) -> None:
        self._robot = robot
        self._cameras = cameras
        self._image_size = image_size
        self._substep_s = control_period_s / SUBSTEPS
        self._done = 0  # substeps
        self.hand: list[npt.NDArray[np.float64]] = []

    def look(self) -> dict[str, bytes]:
        """Return the JPEG of every camera, as the observer sends it."""
        return {camera: encode_frame(self._robot.render(camera), self._image_size) for camera in self._cameras}

    def state(self) -> Vector:
        """Return hand and gripper, [4]."""
        return self._robot.state().astype(np.float64)

    def command(self, command: Command) -> None:
        """Take a command; a hold moves nothing and keeps the gripper's effort."""
        self._robot.command(command.values)

    def advance(self, now: float) -> bool:
        """Do the substeps that are due."""
        due = int(now / self._substep_s + ROUNDING)
        while self._done < due:
            substeps = min(SUBSTEPS - self._done % SUBSTEPS, due - self._done)
            self._robot.advance(substeps)
            self._done += substeps
            if self._done % SUBSTEPS == 0:
                self.hand.append(self.state()[:3])
        return self._robot.success
