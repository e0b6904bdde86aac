"""A simulated SO-101: joint targets in, joint positions and pictures out. No ROS and no wall clock.

Time passes in physics steps of 1/600 s. The controller gives the servos a setpoint 100 times a second; an action is a
target of all six joints that is reached in a straight line within 1/30 s, as a JointTrajectory of one point does it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.rendering import make_renderer
from streaming_vla.sim.so101.arm import HAND_BODY, JOINTS
from streaming_vla.sim.so101.controller import ControllerOptions, JointTrajectoryController
from streaming_vla.sim.so101.experts import ArmState, Expert, make_expert
from streaming_vla.sim.so101.placement import HOME, Placement, place
from streaming_vla.sim.so101.scene import CAMERAS, CUBE_HALF_M, SQUARE, SUBSTEP_S, cube_joint, scene_model
from streaming_vla.sim.so101.scene_reader import SceneReader
from streaming_vla.sim.so101.tasks import RULES, Rule, get_task
from streaming_vla.sim.so101.trajectory import Trajectory, TrajectoryPoint
from streaming_vla.sim.task import Task

ACTION_SIZE = STATE_SIZE = len(JOINTS)  # absolute joint targets, and joint positions, in rad
ACTION_PERIOD_S = 1.0 / 30.0
ACTION_SUBSTEPS = 20
CONTROL_SUBSTEPS = 6  # 100 setpoints and joint states a second
TICK_SUBSTEPS = 2  # divides both: pictures 30 times and joint states 100 times a second, exactly
PICTURE_SIZE = (640, 480)  # width and height
_ROBOT_STATE = ("success", "failed", "clipped", "_controller", "_rule", "_substeps")


@dataclass(frozen=True)
class Observation:
    """What a policy may see.

    Args:
        state: joint positions [6] in rad.
        instruction: what is to be done.
        pictures: of every camera that was asked for, [H, W, 3] uint8 RGB.
    """

    state: npt.NDArray[np.float32]
    instruction: str
    pictures: Mapping[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Instant:
    """Where everything is that can be seen at one instant; it can be rendered in another thread (see `cameras`)."""

    time_s: float
    positions: npt.NDArray[np.float64]
    square: npt.NDArray[np.float64]


@dataclass(frozen=True)
class RobotSnapshot:
    """Everything of one instant that the episode's future depends on (see So101Robot.snapshot)."""

    task: str
    physics: npt.NDArray[np.float64]
    robot: dict[str, Any]


class So101Robot:
    """The simulated arm, its cubes and its controller.

    Args:
        picture_size: width and height of a rendered picture in pixels, at most scene.LARGEST_PICTURE; nothing is
            rendered, and no OpenGL needed, before a picture is asked for.
        cameras: that `observe` renders.
        controller: what trajectories the controller takes.

    Attributes:
        tick_s, ticks_per_control, ticks_per_state, ticks_per_action: see SimulatedRobot.
        task: what is to be done; None before the first reset.
        instruction: the same as a sentence.
        success: the task is done.
        failed: it has gone wrong for good: a wrong cube was touched, a cube fell off the table.
        clipped: commanded setpoints beyond a joint's limits, by joint.

    Raises:
        ModelMissing: the arm's model is not installed.
    """

    tick_s = TICK_SUBSTEPS * SUBSTEP_S
    ticks_per_control = ticks_per_state = CONTROL_SUBSTEPS // TICK_SUBSTEPS
    ticks_per_action = ACTION_SUBSTEPS // TICK_SUBSTEPS

    def __init__(
        self,
        picture_size: tuple[int, int] = PICTURE_SIZE,
        cameras: tuple[str, ...] = CAMERAS,
        controller: ControllerOptions | None = None,
    ) -> None:
        import mujoco

        self.picture_size = picture_size
        self.cameras = cameras
        self.task: Task | None = None
        self.instruction = ""
        self.success = self.failed = False
        self.clipped: Counter[str] = Counter()
        self._mujoco: Any = mujoco
        self._model = scene_model()
        self._data = mujoco.MjData(self._model)
        self._renderer: Any = None
        self._controller = JointTrajectoryController(JOINTS, np.array(HOME), controller)
        self._low, self._high = self._model.actuator_ctrlrange.T.copy()
        self._stiffness = self._model.actuator_gainprm[:, 0].copy()  # of the servos, Nm/rad
        self._reader = SceneReader(self._model, self._data)
        self._hand = self._model.body(HAND_BODY).id
        self._substeps = 0
        self._placement: Placement | None = None
        self._rule: Rule | None = None
        self._experts: dict[str, Expert] = {}

    @property
    def time_s(self) -> float:
        """Simulated time since the reset."""
        return self._substeps * SUBSTEP_S

    def reset(self, task: str, seed: int, *, variant: int = 0) -> None:
        """Start `task` in the scene of `seed`; the same three values give the same episode.

        Args:
            variant: which sentence the instruction is (see Task.sentence).

        Raises:
            ValueError: unknown task or variant, or a negative seed.
        """
        chosen = get_task(task)
        placement = place(seed)
        self.instruction = chosen.sentence(variant).format(colour=placement.target)
        model, data = self._model, self._data
        self._mujoco.mj_resetData(model, data)
        data.qpos[: len(JOINTS)] = np.clip(placement.joints, self._low, self._high)
        for colour, (x, y, yaw) in placement.cubes.items():
            begin = model.joint(cube_joint(colour)).qposadr[0]
            data.qpos[begin : begin + 7] = (x, y, CUBE_HALF_M, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        data.mocap_pos[model.body(SQUARE).mocapid[0]] = (*placement.square, 0.0)
        self._mujoco.mj_forward(model, data)
        # the arm is at rest: its servos hold what gravity pulls
        self._controller.reset(data.qpos[: len(JOINTS)] + self._droop())
        data.ctrl[:] = self._controller.setpoint
        self._mujoco.mj_forward(model, data)
        self._substeps = 0
        self._placement, self.task = placement, chosen
        self._rule = RULES[chosen.name]()
        self.success = self.failed = False

    @property
    def colour(self) -> str:
        """Colour of the named cube."""
        return self._placed().target

    def command(self, trajectory: Trajectory) -> None:
        """Follow `trajectory`; its times are those of `time_s`.

        Raises:
            TrajectoryRefused: it cannot be followed; what is followed goes on.
        """
        self._controller.accept(trajectory, self.time_s)

    def advance(self, substeps: int) -> bool:
        """Let `substeps` physics steps of SUBSTEP_S pass; without a command the arm holds. True on success."""
        self._check_task()
        while substeps > 0:
            if self._substeps % CONTROL_SUBSTEPS == 0:
                self._control()
            count = min(substeps, CONTROL_SUBSTEPS - self._substeps % CONTROL_SUBSTEPS)
            self._mujoco.mj_step(self._model, self._data, count)
            self._mujoco.mj_forward(self._model, self._data)  # else contacts and places are one step behind the joints
            self._substeps += count
            substeps -= count
            if self._substeps % CONTROL_SUBSTEPS == 0:
                self._judge()
        return self.success

    def step(self, targets: npt.ArrayLike) -> bool:
        """Reach joint targets, [6] in rad, within one action period of 1/30 s; True on success.

        Raises:
            TrajectoryRefused: not six finite values.
        """
        point = TrajectoryPoint(ACTION_PERIOD_S, np.asarray(targets, dtype=np.float64))
        self.command(Trajectory(JOINTS, (point,)))
        return self.advance(ACTION_SUBSTEPS)

    def observe(self, pictures: bool = True) -> Observation:
        """Return what a policy may see now; pictures, the slow part, only when they are asked for."""
        seen = {camera: self.render(camera) for camera in self.cameras} if pictures else {}
        return Observation(self.state(), self.instruction, seen)

    def pass_ticks(self, ticks: int) -> bool:
        """Let so many times 1/300 s pass; True on success."""
        return self.advance(ticks * TICK_SUBSTEPS)

    def state(self) -> npt.NDArray[np.float32]:
        """Return the joint positions, [6] in rad, the gripper last."""
        return self.joint_positions().astype(np.float32)

    def joint_names(self) -> list[str]:
        """Return the names of all joints, the gripper last."""
        return list(JOINTS)

    def joint_positions(self) -> npt.NDArray[np.float64]:
        """Return the joint positions, [6] in rad."""
        return np.array(self._data.qpos[: len(JOINTS)])

    def joint_velocities(self) -> npt.NDArray[np.float64]:
        """Return the joint velocities, [6] in rad/s."""
        return np.array(self._data.qvel[: len(JOINTS)])

    def setpoint(self) -> npt.NDArray[np.float64]:
        """Return where the controller wants the joints, [6] in rad."""
        return np.array(self._controller.setpoint)

    @property
    def timeouts(self) -> int:
        """How often no new trajectory came within the controller's time-out."""
        return self._controller.timeouts

    def hand_position(self) -> npt.NDArray[np.float64]:
        """Return the origin of the hand's frame, [3] in metres."""
        return np.array(self._data.xpos[self._hand])

    def hand_orientation(self) -> npt.NDArray[np.float64]:
        """Return the hand's orientation, quaternion w, x, y, z [4]."""
        return np.array(self._data.xquat[self._hand])

    def gripper_opening(self) -> float:
        """Return how far the jaws are open, 0 to 1 of the gripper's range."""
        return float((self._data.qpos[5] - self._low[5]) / (self._high[5] - self._low[5]))

    def scene_positions(self) -> npt.NDArray[np.float32]:
        """Return where the named cube and the square are, [6] in metres: labels for training, no policy's input."""
        scene = self._reader.scene(self._placed())
        return np.concatenate((scene.cubes[scene.target], scene.square, (0.0,))).astype(np.float32)

    def expert_action(self) -> npt.NDArray[np.float32]:
        """Return the scripted expert's joint targets for the present state, [6] in rad."""
        name = self._check_task().name
        if name not in self._experts:
            self._experts[name] = make_expert(name)
        joints = self.joint_positions()
        arm = ArmState(joints, self.setpoint(), self._droop())
        targets = self._experts[name].act(arm, self._reader.scene(self._placed()))
        return np.clip(targets, self._low, self._high).astype(np.float32)

    def snapshot(self) -> RobotSnapshot:
        """Return a copy of the present instant, to come back to with `restore`."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(self._mujoco.mj_stateSize(self._model, kind))
        self._mujoco.mj_getState(self._model, self._data, physics, kind)
        return RobotSnapshot(
            self._check_task().name, physics, {name: copy.copy(getattr(self, name)) for name in _ROBOT_STATE}
        )

    def restore(self, snapshot: RobotSnapshot) -> None:
        """Go back to the instant of `snapshot`, which was taken since the last reset.

        Raises:
            ValueError: the snapshot is of another task.
        """
        if self.task is None or snapshot.task != self.task.name:
            raise ValueError(f"the snapshot is of task {snapshot.task}, the robot runs {self.task and self.task.name}")
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self._mujoco.mj_setState(self._model, self._data, snapshot.physics, kind)
        self._mujoco.mj_forward(self._model, self._data)
        # again: mj_forward moves the solver's warm start, and the future would differ in the last bits
        self._mujoco.mj_setState(self._model, self._data, snapshot.physics, kind)
        for name, value in snapshot.robot.items():
            setattr(self, name, copy.copy(value))

    def instant(self) -> Instant:
        """Return a copy of everything that can be seen now."""
        return Instant(self.time_s, self._data.qpos.copy(), self._data.mocap_pos.copy())

    def render(self, camera: str) -> npt.NDArray[np.uint8]:
        """Return the picture of `camera`, [H, W, 3] uint8 RGB.

        Raises:
            RenderError: no OpenGL for the cameras.
        """
        if self._renderer is None:
            self._renderer = make_renderer(self._model, *self.picture_size)
        self._renderer.update_scene(self._data, camera)
        picture: npt.NDArray[np.uint8] = self._renderer.render()
        return picture

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _check_task(self) -> Task:
        if self.task is None:
            raise RuntimeError("call reset(task, seed) first: no task is loaded")
        return self.task

    def _placed(self) -> Placement:
        self._check_task()
        assert self._placement is not None
        return self._placement

    def _control(self) -> None:
        setpoint = self._controller.update(self.time_s)
        allowed = np.clip(setpoint, self._low, self._high)
        for index in np.flatnonzero(allowed != setpoint):
            self.clipped[JOINTS[index]] += 1
        self._data.ctrl[:] = allowed

    def _judge(self) -> None:
        assert self._rule is not None
        self._rule.update(self._reader.scene(self._placed()), CONTROL_SUBSTEPS * SUBSTEP_S)
        self.success, self.failed = self._rule.success, self._rule.failed

    def _droop(self) -> npt.NDArray[np.float64]:
        """Return how far the joints settle short of their setpoint under gravity, [6] in rad."""
        count = len(JOINTS)
        droop: npt.NDArray[np.float64] = self._data.qfrc_bias[:count] / self._stiffness
        return droop
