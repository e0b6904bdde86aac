"""Node `sim_robot`: a Meta-World arm in real time. It waits for nobody, as no robot does."""

from __future__ import annotations

import array
import sys
import time

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseStamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64, Float64MultiArray, String
from streaming_vla_interfaces.srv import ResetRobot

from streaming_vla.ros.base import LATCHED, SuiteNode, reliable
from streaming_vla.ros.images import picture_message
from streaming_vla.ros.spin import run
from streaming_vla.sim.metaworld import ACTION_SIZE, CAMERAS, ENVIRONMENT_STEP_S, SUBSTEPS, MetaWorldRobot
from streaming_vla.sim.options import SimRobotOptions

SUBSTEP_S = ENVIRONMENT_STEP_S / SUBSTEPS
BURST = 10  # late substeps that are caught up before messages are looked at again
LOST_SUBSTEPS = 50  # later than this the clock starts anew instead of racing
FRAME = "world"


class SimRobotNode(SuiteNode[SimRobotOptions]):
    """Physics on the monotonic clock; commands act when they arrive, without commands the arm holds."""

    def __init__(self) -> None:
        super().__init__("sim_robot", SimRobotOptions)
        self._robot: MetaWorldRobot | None = None
        self._next_substep_s = 0.0
        self._next_picture_s = 0.0
        self._pictures = 0
        self._substeps = 0
        self._success = False

    def configure(self) -> None:
        """Build the scene of parameter `task` and connect."""
        self._robot = MetaWorldRobot(self.options.image_size, CAMERAS)
        self._robot.reset(self.options.task, self.options.seed)
        self._cameras = [self.create_publisher(Image, f"camera/{name}/image", reliable(2)) for name in CAMERAS]
        self._states = self.create_publisher(Float64MultiArray, "robot_state", qos_profile_sensor_data)
        self._joints = self.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self._hands = self.create_publisher(PoseStamped, "hand_pose", reliable(10))
        self._grippers = self.create_publisher(Float64, "gripper", reliable(10))
        self._instructions = self.create_publisher(String, "instruction", LATCHED)
        self._successes = self.create_publisher(Bool, "success", LATCHED)
        self.listen(Float64MultiArray, "command", _command_from, self._on_command, reliable(10))
        self.serve(ResetRobot, "reset_robot", self._on_reset)

    def activate(self) -> None:
        """Let time pass for the arm."""
        self._announce()
        self._restart_clock()

    def update(self, options: SimRobotOptions) -> None:
        """Take a new pace at once."""
        self._restart_clock()

    def deadline(self) -> float | None:
        """When the next substep or picture is due."""
        return min(self._next_substep_s, self._next_picture_s) if self.active else None

    def tick(self) -> None:
        """Advance the physics to the present, then render at most one picture."""
        for _ in range(BURST):
            if time.monotonic() < self._next_substep_s:
                break
            self._advance()
        now = time.monotonic()
        if now > self._next_substep_s + LOST_SUBSTEPS * self._period_s():
            self.refuse("clock_restarted", "the simulation is slower than real_time_factor: set a smaller one")
            self._restart_clock()
        elif now >= self._next_picture_s:
            self._publish_picture(self._pictures % len(CAMERAS))
            self._pictures += 1
            self._next_picture_s += 1.0 / (len(CAMERAS) * self.options.camera_rate_hz)
            self._next_picture_s = max(self._next_picture_s, now)

    def report(self) -> tuple[str, dict[str, object]]:
        """Task, success and pace."""
        task = self._robot.task if self._robot is not None else None
        figures = {"substeps": self._substeps, "pictures": self._pictures, "success": self._success}
        return "", {"task": task.name if task else "", **figures}

    def _period_s(self) -> float:
        return SUBSTEP_S / self.options.real_time_factor

    def _restart_clock(self) -> None:
        self._next_substep_s = time.monotonic() + self._period_s()
        self._next_picture_s = time.monotonic()

    def _advance(self) -> None:
        assert self._robot is not None
        if time.monotonic() > self._next_substep_s + self._period_s():
            self.refusals["late_substeps"] += 1
        success = self._robot.advance(1)
        self._next_substep_s += self._period_s()
        self._substeps += 1
        if success != self._success:
            self._success = success
            self._successes.publish(Bool(data=success))
        if self._substeps % SUBSTEPS == 0:
            self._publish_state()

    def _announce(self) -> None:
        """Publish everything about a fresh start: state, pictures, success and instruction."""
        assert self._robot is not None and self._robot.task is not None
        self._success = self._robot.success
        self._successes.publish(Bool(data=self._success))
        self._publish_state()
        for index in range(len(CAMERAS)):
            self._publish_picture(index)
        self._instructions.publish(String(data=self._robot.task.instructions[0]))

    def _publish_state(self) -> None:
        assert self._robot is not None
        state = self._robot.state().tolist()
        stamp = self.stamp()
        joints = JointState(name=self._joint_names(), position=array.array("d", self._robot.joint_positions().tolist()))
        joints.header.stamp = stamp
        self._joints.publish(joints)
        self._states.publish(Float64MultiArray(data=array.array("d", state)))
        hand = PoseStamped()
        hand.header.stamp, hand.header.frame_id = stamp, FRAME
        hand.pose.position.x, hand.pose.position.y, hand.pose.position.z = state[:3]
        self._hands.publish(hand)
        self._grippers.publish(Float64(data=state[3]))

    def _joint_names(self) -> list[str]:
        assert self._robot is not None
        return self._robot.joint_names()

    def _publish_picture(self, index: int) -> None:
        assert self._robot is not None
        stamp = self.stamp()
        image = picture_message(self._robot.render(CAMERAS[index]), CAMERAS[index])
        image.header.stamp = stamp
        self._cameras[index].publish(image)

    def _on_command(self, values: npt.NDArray[np.float64]) -> None:
        assert self._robot is not None
        self._robot.command(values)

    def _on_reset(self, request: ResetRobot.Request, response: ResetRobot.Response) -> None:
        assert self._robot is not None
        try:
            self._robot.reset(request.task, request.seed)
        except ValueError as error:
            self.refusals["reset_refused"] += 1
            response.reason = str(error)
            return
        self._announce()
        self._restart_clock()
        assert self._robot.task is not None
        response.accepted, response.instruction = True, self._robot.task.instructions[0]


def _command_from(message: Float64MultiArray) -> npt.NDArray[np.float64]:
    values = np.array(message.data, dtype=np.float64)
    if values.shape != (ACTION_SIZE,):
        raise ValueError(f"it has {values.size} values, expected {ACTION_SIZE}: dx, dy, dz and gripper effort")
    if not np.isfinite(values).all():
        raise ValueError(f"it is not finite: {values.tolist()}")
    return values


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(SimRobotNode))


if __name__ == "__main__":
    main()
