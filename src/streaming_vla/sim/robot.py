"""What every simulated robot can do for the node that lets it run: pass time, tell itself, and start a task anew."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.task import Task


class SimulatedRobot(Protocol):
    """A robot that knows nothing of topics and clocks. What commands it takes is its own affair.

    Attributes:
        cameras: names, in the order in which pictures are told.
        tick_s: the shortest simulated time that can pass.
        ticks_per_control: commands act at multiples of so many ticks.
        ticks_per_state: so many ticks lie between two states that are told.
        ticks_per_action: so many ticks an action lasts.
        task: what is to be done; None before the first reset.
        instruction: the same as a sentence.
        success: the task is done.
    """

    cameras: tuple[str, ...]
    tick_s: float
    ticks_per_control: int
    ticks_per_state: int
    ticks_per_action: int
    task: Task | None
    instruction: str
    success: bool

    def reset(self, task: str, seed: int, *, variant: int = 0) -> None:
        """Start `task` in the scene of `seed`, with the instruction's wording `variant` (see Task.sentence).

        Raises:
            ValueError: there is no such task or wording.
        """

    def pass_ticks(self, ticks: int) -> bool:
        """Let so many times `tick_s` pass; True on success."""

    def state(self) -> npt.NDArray[np.float32]:
        """Return what a policy knows of the robot's body."""

    def joint_names(self) -> list[str]:
        """Return the names of the joints, [J]."""

    def joint_positions(self) -> npt.NDArray[np.float64]:
        """Return the joints' positions, [J] in rad or metres."""

    def joint_velocities(self) -> npt.NDArray[np.float64]:
        """Return the joints' velocities, [J] in rad/s or m/s."""

    def hand_position(self) -> npt.NDArray[np.float64]:
        """Return where the hand is, [3] in metres."""

    def hand_orientation(self) -> npt.NDArray[np.float64]:
        """Return the hand's orientation, quaternion w, x, y, z [4]."""

    def gripper_opening(self) -> float:
        """Return how far the gripper is open, 0 to 1."""

    def render(self, camera: str) -> npt.NDArray[np.uint8]:
        """Return the picture of `camera`, [H, W, 3] uint8 RGB."""

    def expert_action(self) -> npt.NDArray[np.float32]:
        """Return what the task's scripted expert would do now, an action."""

    def close(self) -> None:
        """Free what draws the pictures."""
