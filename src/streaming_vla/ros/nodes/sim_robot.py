"""Node `sim_robot`: a simulated arm in real time. It waits for nobody, as no robot does.

Where the machine is too slow for that, simulated time passes slower: the diagnostics say how fast, and /clock tells it.
"""

from __future__ import annotations

import array
import math
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64, Float64MultiArray, String
from streaming_vla_interfaces.srv import ResetRobot

from streaming_vla.options.texts import cut
from streaming_vla.ros.base import BEST_EFFORT, LATCHED, SuiteNode, reliable
from streaming_vla.ros.images import picture_message
from streaming_vla.ros.simulations import SIMULATIONS, Simulation
from streaming_vla.ros.spin import run
from streaming_vla.sim.clock import SimulatedClock
from streaming_vla.sim.options import SimRobotOptions

BURST = 10  # late steps that are made up for before messages are looked at again
BUSY_S = 0.002  # until cameras that were busy are asked again
SLOW_SAID_S = 10.0  # between two log lines about a slow clock; the diagnostics say it every second
FRAME = "world"
NANOSECONDS = 1_000_000_000


class SimRobotNode(SuiteNode[SimRobotOptions]):
    """Physics on the monotonic clock; commands act when they arrive, without commands the arm holds."""

    follows_clock = False  # it makes the one that is published

    def __init__(self) -> None:
        super().__init__("sim_robot", SimRobotOptions)
        self._simulation: Simulation | None = None
        self._simulated_clock: SimulatedClock | None = None  # `_clock` is rclpy's
        self._published_s = 0.0  # the time on /clock
        self._look_tick = 0.0  # of the clock, when the next picture is due
        self._ask_s: float | None = None  # when cameras that are busy are asked again: time waits for them
        self._pictures = 0
        self._success = False

    def configure(self) -> None:
        """Build the scene of parameter `task` and connect."""
        options = self.options
        self._simulation = SIMULATIONS[options.robot](options, self._publish_picture)
        robot = self._simulation.robot
        robot.reset(options.task, options.seed, variant=options.instruction_variant)
        self._simulated_clock = SimulatedClock(robot.tick_s, options.real_time_factor, time.monotonic())
        self._cameras = {
            name: self.create_publisher(Image, f"camera/{name}/image", reliable(2)) for name in robot.cameras
        }
        self._states = self.create_publisher(Float64MultiArray, "robot_state", qos_profile_sensor_data)
        self._joints = self.create_publisher(JointState, "joint_states", qos_profile_sensor_data)
        self._hands = self.create_publisher(PoseStamped, "hand_pose", reliable(10))
        self._grippers = self.create_publisher(Float64, "gripper", reliable(10))
        self._instructions = self.create_publisher(String, "instruction", LATCHED)
        self._successes = self.create_publisher(Bool, "success", LATCHED)
        self._times = self.create_publisher(Clock, "/clock", BEST_EFFORT) if options.publish_clock else None
        command_type = self._simulation.command_type
        self._experts = self.create_publisher(command_type, "expert_command", reliable(10))
        self.listen(command_type, "command", self._simulation.convert, self._on_command, reliable(10))
        self.serve(ResetRobot, "reset_robot", self._on_reset)

    def activate(self) -> None:
        """Let time pass for the arm."""
        self._running.open()
        self._announce()
        self._restart()

    def deactivate(self) -> None:
        """Let time stand still."""
        self._running.close()

    def update(self, options: SimRobotOptions) -> None:
        """Take a new pace at once."""
        if self._simulated_clock is not None:
            self._restart()

    def deadline(self) -> float | None:
        """When something of the robot is due."""
        if not self.active:
            return None
        return self._pace.when(self._ticks_to_next()) if self._ask_s is None else self._ask_s

    def tick(self) -> None:
        """Advance the physics to the present, unless the cameras have to catch up first."""
        for _ in range(BURST):
            if self._look_is_late():
                return
            ticks = self._ticks_to_next()
            if self._pace.due(time.monotonic()) < ticks:
                return
            self._advance(ticks)

    def report(self) -> tuple[str, dict[str, object]]:
        """Task, success and pace."""
        if self._simulation is None or self._simulated_clock is None:
            return "", {}
        now = time.monotonic()
        slow = self._simulated_clock.slow(now)
        if slow:
            self.get_logger().warning(slow, throttle_duration_sec=SLOW_SAID_S)
        task = self._simulation.robot.task
        return slow, {
            "task": task.name if task else "",
            "success": self._success,
            "pictures": self._pictures,
            "simulated_s": self._simulated_clock.time_s,
            "asked_real_time_factor": self._simulated_clock.factor,
            "achieved_real_time_factor": self._simulated_clock.achieved(now),
            "lost_ms": int(1000.0 * self._simulated_clock.lost_s),
            **self._simulation.figures(),
        }

    def stamp(self, at_s: float | None = None) -> Any:
        """Return the ROS time of a monotonic time, of now for None; the simulated time where that is published."""
        if self._simulated_clock is None or not self.options.publish_clock:
            return super().stamp(at_s)
        ago_s = 0.0 if at_s is None else (time.monotonic() - at_s) * self._simulated_clock.factor * self._scale
        seconds = max(0.0, self._published_s - ago_s)
        return Time(sec=int(seconds), nanosec=int((seconds - int(seconds)) * NANOSECONDS))

    @property
    def _running(self) -> Simulation:
        assert self._simulation is not None
        return self._simulation

    @property
    def _pace(self) -> SimulatedClock:
        assert self._simulated_clock is not None
        return self._simulated_clock

    @property
    def _scale(self) -> float:
        """Published seconds per simulated second."""
        return 1.0 if self._running.in_real_time else 1.0 / self._pace.factor

    def _restart(self) -> None:
        self._pace.restart(time.monotonic(), self.options.real_time_factor)
        self._look_tick = float(self._pace.ticks)
        self._ask_s = None

    def _ticks_to_next(self) -> int:
        """Return how many ticks there are to the next setpoint, picture or answer of the expert."""
        robot, now = self._running.robot, self._pace.ticks
        every = [robot.ticks_per_control, *([robot.ticks_per_action] if self.options.expert else [])]
        to_look = math.ceil(self._look_tick) - now
        return max(1, min(*(each - now % each for each in every), to_look))

    def _look_is_late(self) -> bool:
        """Take pictures when they are due; True while that must wait for those before."""
        if self._pace.ticks < self._look_tick:
            return False
        if not self._running.look(self.stamp()):
            self._ask_s = time.monotonic() + BUSY_S
            return True
        self._ask_s = None
        period_s = self._pace.factor / (self._running.looks * self.options.camera_rate_hz)
        self._look_tick = max(self._look_tick + period_s / self._pace.tick_s, float(self._pace.ticks))
        return False

    def _advance(self, ticks: int) -> None:
        robot = self._running.robot
        success = robot.pass_ticks(ticks)
        self._pace.passed(time.monotonic(), ticks)
        self._published_s += ticks * self._pace.tick_s * self._scale
        if self._times is not None:
            self._times.publish(Clock(clock=self.stamp()))
        if success != self._success:
            self._success = success
            self._successes.publish(Bool(data=success))
        if self._pace.ticks % robot.ticks_per_state == 0:
            self._publish_state()
        if self.options.expert and self._pace.ticks % robot.ticks_per_action == 0:
            self._experts.publish(self._running.expert_command())

    def _announce(self) -> None:
        """Publish everything about a fresh start: state, pictures, success and instruction."""
        robot = self._running.robot
        self._success = robot.success
        self._successes.publish(Bool(data=self._success))
        self._publish_state()
        self._running.look_at_once(self.stamp())
        self._instructions.publish(String(data=robot.instruction))

    def _publish_state(self) -> None:
        robot = self._running.robot
        stamp = self.stamp()
        joints = JointState(
            name=robot.joint_names(),
            position=array.array("d", robot.joint_positions().tolist()),
            velocity=array.array("d", robot.joint_velocities().tolist()),
        )
        joints.header.stamp = stamp
        self._joints.publish(joints)
        self._states.publish(Float64MultiArray(data=array.array("d", robot.state().tolist())))
        hand = PoseStamped()
        hand.header.stamp, hand.header.frame_id = stamp, FRAME
        position, orientation = hand.pose.position, hand.pose.orientation
        position.x, position.y, position.z = robot.hand_position().tolist()
        orientation.w, orientation.x, orientation.y, orientation.z = robot.hand_orientation().tolist()
        self._hands.publish(hand)
        self._grippers.publish(Float64(data=robot.gripper_opening()))

    def _publish_picture(self, camera: str, stamp: Time, pixels: npt.NDArray[np.uint8]) -> None:
        """Publish a picture; the SO-101's come from the thread that draws them."""
        image = picture_message(pixels, camera)
        image.header.stamp = stamp
        self._cameras[camera].publish(image)
        self._pictures += 1

    def _on_command(self, command: Any) -> None:
        stamp = self.stamp()
        try:
            self._running.command(command, stamp.sec * NANOSECONDS + stamp.nanosec)
        except ValueError as error:
            self.refuse("malformed_command", f"message on 'command' dropped: {cut(str(error))}")

    def _on_reset(self, request: ResetRobot.Request, response: ResetRobot.Response) -> None:
        robot = self._running.robot
        try:
            robot.reset(request.task, request.seed, variant=self.options.instruction_variant)
        except ValueError as error:
            self.refusals["reset_refused"] += 1
            response.reason = cut(str(error))
            return
        self._announce()
        self._restart()
        response.accepted, response.instruction = True, robot.instruction


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(SimRobotNode))


if __name__ == "__main__":
    main()
