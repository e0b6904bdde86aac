"""Drives the simulated SO-101 with its scripted experts over ROS, as a leader arm would, and marks the episodes.

The simulation says on `expert_command` what its expert would do; that is what is commanded. An episode is marked (on
`episode`) only once nobody disturbs the arm any more, see training/so101_demonstrations.py. All of it is on the
simulated clock: what is recorded has the arm's own rate on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rclpy.node import Node
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv
from trajectory_msgs.msg import JointTrajectory

from streaming_vla.bringup import graph
from streaming_vla.ros.base import LATCHED, reliable
from streaming_vla.ros.trajectories import targets_message
from streaming_vla.sim.so101.arm import JOINTS
from streaming_vla.sim.so101.disturbance import ATTEMPTS, BURST_PROBABILITY, BURST_SPEED, Disturbance
from streaming_vla.sim.so101.robot import ACTION_PERIOD_S
from streaming_vla.sim.so101.tasks import OFF_THE_WAY, TIME_LIMITS_S, get_task
from streaming_vla.workbench.demo.driver import SERVICE_TIMEOUT_S, Driver, DriverError
from streaming_vla.workbench.demo.simulation import running_suite

RECORDER = graph.GraphNode("recorder", "streaming_vla.ros.nodes.recorder")
ANSWERS_BEHIND = 10  # actions behind the success, so that the last step is followed by something of every source
ANSWER_TIMEOUT_S = 60.0  # a busy machine lets a second of the simulation take long


class Teacher(Driver):
    """Runs demonstrations one after the other (see Driver)."""

    def __init__(self, node: Node, check: Callable[[], None]) -> None:
        super().__init__(node, (), ACTION_PERIOD_S, check)
        self._random = np.random.default_rng(0)
        self._disturbance: Disturbance | None = None
        self._driving = False
        self._sent: np.ndarray | None = None
        self._answers = 0
        self._number = 0
        self._commands = node.create_publisher(JointTrajectory, "command", reliable(10))
        self._episodes = node.create_publisher(wire.Episode, "episode", LATCHED)
        node.create_subscription(JointTrajectory, "expert_command", self._on_answer, reliable(10))
        self._session = node.get_namespace()

    def wait_for_recorder(self) -> None:
        """Wait until what is published here is recorded."""
        self._spin_until(
            lambda: self._commands.get_subscription_count() > 1 and self._episodes.get_subscription_count() > 0,
            ANSWER_TIMEOUT_S,
            "the recorder to listen",
        )
        self.spin(2.0)  # and to the topics of the robot

    def demonstrate(self, task: str, seed: int, disturbed: float) -> bool:
        """Demonstrate one scene; False where the expert did not do it.

        Args:
            disturbed: probability that the episode begins off the way.

        Raises:
            DriverError: the robot does not do what it was asked.
        """
        self._random = np.random.default_rng((seed, *task.encode()))
        variant = int(self._random.integers(len(get_task(task).instructions)))
        self.set_parameters("sim_robot", {"instruction_variant": variant, "expert": True})
        instruction = self._set_scene(task, seed)
        if self._random.random() < disturbed:
            for _ in range(ATTEMPTS):
                self._disturbance = Disturbance(BURST_PROBABILITY, BURST_SPEED, self._random)
                self._drive(int(self._random.integers(1, OFF_THE_WAY[task])))
                self._disturbance = None
                if not self._succeeded:
                    break
                instruction = self._set_scene(task, seed)
        self._say(instruction, True)
        self._drive(round(TIME_LIMITS_S[task] / ACTION_PERIOD_S))
        done = self._succeeded
        self._drive(ANSWERS_BEHIND, until_success=False)
        self._say(instruction, False)
        self._driving = False
        return done

    def _set_scene(self, task: str, seed: int) -> str:
        self._driving, self._sent = False, None
        answer = self._call(self._reset, srv.ResetRobot.Request(task=task, seed=seed))
        if not answer.accepted:
            raise DriverError(f"the robot refused to reset to {task}, seed {seed}: {answer.reason}")
        self._spin_until(lambda: not self._succeeded, SERVICE_TIMEOUT_S, "the robot to be without success")
        return str(answer.instruction)

    def _drive(self, answers: int, until_success: bool = True) -> None:
        """Send on so many answers of the expert, fewer when the task is done before."""
        last, self._driving = self._answers + answers, True
        while self._answers < last and not (until_success and self._succeeded):
            before = self._answers

            def answered(before: int = before) -> bool:
                return self._answers > before

            self._spin_until(answered, ANSWER_TIMEOUT_S, "the expert of the simulated robot")

    def _on_answer(self, message: JointTrajectory) -> None:
        if not self._driving:
            return
        targets = np.array(message.points[0].positions)
        if self._disturbance is not None:
            targets = self._disturbance.apply(targets, targets if self._sent is None else self._sent)
        self._sent = targets
        self._commands.publish(targets_message(JOINTS, targets, ACTION_PERIOD_S))
        self._answers += 1

    def _say(self, instruction: str, active: bool) -> None:
        self._number += active
        told = wire.Episode(session=self._session, number=self._number, active=active, instruction=instruction)
        told.header.stamp = self._node.get_clock().now().to_msg()
        self._episodes.publish(told)


@contextmanager
def teaching(bag: Path, params_file: Path | None, raw: bool) -> Iterator[Teacher]:
    """Start the simulated robot and the recorder on a ROS domain of their own; stop both at the end.

    Their logs are in a folder beside the bag.

    Raises:
        DriverError: a node cannot start; the message is its sentence.
    """
    settings: dict[str, dict[str, graph.Setting]] = {
        "sim_robot": {"robot": "so101", "publish_clock": True},
        "recorder": {"use_sim_time": True, "bag_folder": str(bag.parent), "bag_name": bag.name},
    }
    if raw:
        settings["recorder"]["jpeg_quality"] = 0
    nodes = tuple(node for node in graph.nodes(simulated=True) if node.simulated_only)
    logs = bag.with_name(f"{bag.name}_logs")
    with running_suite((*nodes, RECORDER), settings, params_file, logs, "teacher", True) as (_, node, check):
        teacher = Teacher(node, check)
        try:
            teacher.wait_for_recorder()
            yield teacher
        finally:
            teacher.close()
