"""What differs between the simulated robots for their node: the command they take, and how their pictures are taken."""

from __future__ import annotations

import array
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from streaming_vla.ros.trajectories import targets_message, trajectory_from
from streaming_vla.sim.metaworld import ACTION_SIZE, CAMERAS, MetaWorldRobot
from streaming_vla.sim.options import SimRobotOptions
from streaming_vla.sim.robot import SimulatedRobot
from streaming_vla.sim.so101.arm import JOINTS
from streaming_vla.sim.so101.cameras import CameraThread, Pictures
from streaming_vla.sim.so101.controller import ControllerOptions
from streaming_vla.sim.so101.robot import ACTION_PERIOD_S, Instant, So101Robot

Show = Callable[[str, Time, npt.NDArray[np.uint8]], None]  # a camera, the time of its picture, and [H, W, 3] RGB


class Simulation(ABC):
    """A simulated robot and what its node has to know of it.

    Attributes:
        command_type: message on `command`.
        looks: so many calls of `look` make one picture of every camera.
        in_real_time: its seconds are those of a real robot. Otherwise it has no time of its own: what takes a second at
            `real_time_factor` counts as one.
    """

    command_type: type
    looks: int
    in_real_time: bool
    robot: SimulatedRobot

    def open(self) -> None:  # noqa: B027 (optional, not missing)
        """Get ready to take pictures."""

    @abstractmethod
    def convert(self, message: Any) -> Any:
        """Return a command.

        Raises:
            ValueError: the message is none.
        """

    @abstractmethod
    def command(self, command: Any, now_ns: int) -> None:
        """Take a command at `now_ns`, ROS time.

        Raises:
            ValueError: it cannot be followed.
        """

    @abstractmethod
    def expert_command(self) -> Any:
        """Return the message with which the scripted expert would command the robot now."""

    @abstractmethod
    def look(self, stamp: Time) -> bool:
        """Take the next picture or pictures, now at `stamp`; False while those before are not done."""

    @abstractmethod
    def look_at_once(self, stamp: Time) -> None:
        """Show a picture of every camera at `stamp` before this returns."""

    def figures(self) -> dict[str, object]:
        """Return key figures for the diagnostics."""
        return {}

    def close(self) -> None:  # noqa: B027 (optional, not missing)
        """Finish the pictures that are being taken."""


class MetaWorldSimulation(Simulation):
    """Meta-World's arm: changes of the hand as Float64MultiArray; small pictures, drawn in between, one at a time."""

    command_type = Float64MultiArray
    looks = len(CAMERAS)
    in_real_time = False  # a step of its environment is an action, however long that lasts

    def __init__(self, options: SimRobotOptions, show: Show) -> None:
        self.robot = self._arm = MetaWorldRobot(options.image_size, CAMERAS)
        self._show = show
        self._next = 0

    def convert(self, message: Float64MultiArray) -> npt.NDArray[np.float64]:
        """Return the action, [4]."""
        values = np.array(message.data, dtype=np.float64)
        if values.shape != (ACTION_SIZE,):
            raise ValueError(f"it has {values.size} values, expected {ACTION_SIZE}: dx, dy, dz and gripper effort")
        if not np.isfinite(values).all():
            raise ValueError(f"it is not finite: {values.tolist()}")
        return values

    def command(self, command: npt.NDArray[np.float64], now_ns: int) -> None:
        """Act at the next tick."""
        self._arm.command(command)

    def expert_command(self) -> Float64MultiArray:
        """Return the expert's action."""
        return Float64MultiArray(data=array.array("d", self._arm.expert_action().tolist()))

    def look(self, stamp: Time) -> bool:
        """Show the picture of one camera, the other one the next time."""
        camera = CAMERAS[self._next % len(CAMERAS)]
        self._next += 1
        self._show(camera, stamp, self._arm.render(camera))
        return True

    def look_at_once(self, stamp: Time) -> None:
        """Show every camera."""
        for _ in CAMERAS:
            self.look(stamp)


class So101Simulation(Simulation):
    """The SO-101: joint targets as JointTrajectory; large pictures of one instant, drawn in a thread of their own."""

    command_type = JointTrajectory
    looks = 1
    in_real_time = True

    def __init__(self, options: SimRobotOptions, show: Show) -> None:
        self._size = options.image_size, options.image_height or options.image_size
        self._controller = ControllerOptions(timeout_s=options.command_timeout_s)
        self.robot = self._arm = So101Robot(self._size, controller=self._controller)
        self._show = show
        self._cameras: CameraThread | None = None

    def open(self) -> None:
        """Start the cameras' thread."""
        self._cameras = CameraThread(self._deliver, self._size, self._arm.cameras)

    def close(self) -> None:
        """End it."""
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None

    def convert(self, message: JointTrajectory) -> JointTrajectory:
        """Return the message itself: its start depends on when it is taken."""
        return message

    def command(self, command: JointTrajectory, now_ns: int) -> None:
        """Follow the trajectory from now or from its stamp on."""
        self._arm.command(trajectory_from(command, now_ns, self._arm.time_s))

    def expert_command(self) -> JointTrajectory:
        """Return the expert's targets, to be reached within an action."""
        return targets_message(JOINTS, self._arm.expert_action(), ACTION_PERIOD_S)

    def look(self, stamp: Time) -> bool:
        """Let the thread look at this instant with all cameras."""
        assert self._cameras is not None
        return self._cameras.take(self._arm.instant(), stamp)

    def look_at_once(self, stamp: Time) -> None:
        """Wait for the thread, and for its pictures of now."""
        assert self._cameras is not None
        self._cameras.wait()
        self.look(stamp)
        self._cameras.wait()

    def figures(self) -> dict[str, object]:
        """What the controller had to say."""
        clipped = {f"clipped.{joint}": count for joint, count in sorted(self._arm.clipped.items())}
        return {"command_timeouts": self._arm.timeouts, **clipped}

    def _deliver(self, instant: Instant, stamp: Any, pictures: Pictures) -> None:
        for camera, pixels in pictures.items():
            self._show(camera, stamp, pixels)


SIMULATIONS: dict[str, type[MetaWorldSimulation] | type[So101Simulation]] = {
    "metaworld": MetaWorldSimulation,
    "so101": So101Simulation,
}
