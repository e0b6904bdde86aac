"""A Meta-World Sawyer arm with two cameras, driven one action at a time. No ROS here.

Facts that this file encodes (seeding, camera pose, render settings) come from the sources of
`metaworld` 3.1 and `mujoco` 3.3 and from LeRobot's camera convention for Meta-World.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.experts import Expert, make_expert
from streaming_vla.sim.memory_episode import NO_LABEL, OPEN_EFFORT, WAIT_STEPS, MemoryEpisode
from streaming_vla.sim.memory_rules import begin_memory
from streaming_vla.sim.memory_scene import draw, hide_reach
from streaming_vla.sim.rendering import make_renderer
from streaming_vla.sim.task import Task
from streaming_vla.sim.tasks import get_task

CAMERAS = ("corner2", "gripperPOV")
ACTION_SIZE = 4  # dx, dy, dz of the hand (1 cm per unit) and gripper effort, each in [-1, 1]
STATE_SIZE = 4  # hand x, y, z in metres and gripper opening in [0, 1]
METRES_PER_UNIT = 0.01
ENVIRONMENT_STEP_S = 0.0125  # simulated seconds of one environment step
SUBSTEPS = 5  # physics steps of one environment step
JOINT_COUNT = 9
_CORNER2_POSITION = (0.75, 0.075, 0.7)
_ENVIRONMENT_STATE = ("_last_stable_obs", "_prev_obs", "curr_path_length")
_ROBOT_STATE = ("success", "failed", "memory", "_observation", "_move", "_effort", "_substeps")
_UNLIMITED_STEPS = 1_000_000_000


@dataclass(frozen=True)
class RobotSnapshot:
    """Everything of one instant that the episode's future depends on (see MetaWorldRobot.snapshot)."""

    task: str
    physics: npt.NDArray[np.float64]
    environment: dict[str, Any]
    robot: dict[str, Any]


@dataclass
class _Scene:
    """One task's environment, its scripted expert and its renderer (made once, kept)."""

    environment: Any
    expert: Expert
    renderer: Any


class MetaWorldRobot:
    """The simulated arm. It knows nothing of policies, topics or clocks.

    Args:
        image_size: width and height of a rendered picture in pixels; 0 renders nothing.
        cameras: names of the cameras that `render` can be asked for.

    Attributes:
        success: the task is done.
        tick_s, ticks_per_control, ticks_per_state, ticks_per_action: see SimulatedRobot.
        instruction: what is to be done, as a sentence.
        failed: a memory task went wrong: another goal was chosen, or none in time. It stays so until the next reset.
        memory: the running episode of a memory task, None in every other task.
    """

    tick_s = ENVIRONMENT_STEP_S / SUBSTEPS
    ticks_per_control = 1
    ticks_per_state = ticks_per_action = SUBSTEPS

    def __init__(self, image_size: int = 192, cameras: tuple[str, ...] = CAMERAS) -> None:
        self.image_size = image_size
        self.cameras = cameras
        self.task: Task | None = None
        self.instruction = ""
        self.success = False
        self.failed = False
        self.memory: MemoryEpisode | None = None
        self._substeps = 0
        self._scenes: dict[str, _Scene] = {}
        self._observation: npt.NDArray[np.float64] = np.zeros(39)
        self._move = np.zeros(3)  # commanded displacement that the arm has not been told yet
        self._effort = OPEN_EFFORT

    def reset(self, task: str, seed: int, wait_steps: tuple[int, int] = WAIT_STEPS, *, variant: int = 0) -> None:
        """Start `task` with its objects placed by `seed`; the same pair gives the same episode.

        Args:
            variant: which sentence the instruction is (see Task.sentence).
            wait_steps: shortest and longest wait of a memory task, in environment steps.

        Raises:
            ValueError: unknown task or variant, or a range of waits that is none.
            RenderError: no OpenGL for the cameras.
        """
        chosen = get_task(task)
        sentence = chosen.sentence(variant)
        memory = begin_memory(chosen.name, seed, wait_steps)
        environment = self._scene(chosen).environment
        if memory is not None:
            environment.hand_init_pos = np.array(memory.start)
            hide_reach(environment.model)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        environment.seed(seed)
        environment.frame_skip = SUBSTEPS
        self._observation, _ = environment.reset()
        self._move = np.zeros(3)
        self._effort = OPEN_EFFORT
        self.task, self.instruction = chosen, sentence
        self.memory = memory
        self.success = self.failed = False
        self._substeps = 0

    def command(self, action: npt.ArrayLike) -> None:
        """Set the newest action, [4], clipped to [-1, 1]: the hand moves once, the gripper keeps its effort."""
        values = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        self._move[:] += values[:3]
        self._effort = float(values[3])

    def advance(self, substeps: int = SUBSTEPS) -> bool:
        """Let `substeps` physics steps of 2.5 ms pass; without a new command the arm holds. True on success."""
        environment = self._current().environment
        environment.frame_skip = substeps
        move = np.clip(self._move, -1.0, 1.0)
        self._move -= move  # what one step may not move (two commands at once) is left for the next
        self._observation, _, _, _, info = environment.step(np.append(move, self._effort))
        self._substeps += substeps
        if self.memory is None:
            self.success = self.success or bool(info["success"])
        else:
            self.memory.update(self._substeps // SUBSTEPS, self._observation[:3])
            self.success, self.failed = self.memory.success, self.memory.failed
        return self.success

    def step(self, action: npt.ArrayLike) -> bool:
        """Apply one action, [4], for one environment step of 12.5 ms; True on success."""
        self.command(action)
        return self.advance()

    def pass_ticks(self, ticks: int) -> bool:
        """Let so many physics steps of 2.5 ms pass; True on success."""
        return self.advance(ticks)

    def state(self) -> npt.NDArray[np.float32]:
        """Return what a robot knows of itself, [4]: hand x, y, z in metres, gripper opening."""
        return self._observation[:STATE_SIZE].astype(np.float32)

    def joint_positions(self) -> npt.NDArray[np.float64]:
        """Return the arm's seven joints in rad and the two fingers in metres, [9]."""
        return np.array(self._current().environment.data.qpos[:JOINT_COUNT])

    def joint_names(self) -> list[str]:
        """Return the names of `joint_positions`, in its order."""
        model = self._current().environment.model
        return [model.joint(index).name for index in range(JOINT_COUNT)]

    def joint_velocities(self) -> npt.NDArray[np.float64]:
        """Return the velocities of `joint_positions`, [9] in rad/s and m/s."""
        return np.array(self._current().environment.data.qvel[:JOINT_COUNT])

    def hand_position(self) -> npt.NDArray[np.float64]:
        """Return where the hand is, [3] in metres."""
        return self._observation[:3].copy()

    def hand_orientation(self) -> npt.NDArray[np.float64]:
        """Return the hand's orientation, quaternion w, x, y, z [4]."""
        return np.array(self._current().environment.data.body("hand").xquat)

    def gripper_opening(self) -> float:
        """Return how far the fingers are open, 0 to 1."""
        return float(self._observation[3])

    def expert_action(self) -> npt.NDArray[np.float32]:
        """Return the scripted expert's action for the present state, [4], clipped to [-1, 1]."""
        if self.memory is not None:
            return self.memory.expert_action(self._observation[:3])
        action = self._current().expert.get_action(self._observation)
        return np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)

    def memory_label(self) -> int:
        """Return what a perfect memory would name now, a class from 0; -1 when there is nothing to remember."""
        return NO_LABEL if self.memory is None else self.memory.label

    def snapshot(self) -> RobotSnapshot:
        """Return a copy of the present instant, to come back to with `restore`."""
        import mujoco

        environment = self._current().environment
        physics = np.empty(mujoco.mj_stateSize(environment.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(environment.model, environment.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        assert self.task is not None
        return RobotSnapshot(
            self.task.name,
            physics,
            {name: copy.copy(getattr(environment, name)) for name in _ENVIRONMENT_STATE},
            {name: copy.copy(getattr(self, name)) for name in _ROBOT_STATE},
        )

    def restore(self, snapshot: RobotSnapshot) -> None:
        """Go back to the instant of `snapshot`, which was taken since the last reset.

        Raises:
            ValueError: the snapshot is of another task.
        """
        import mujoco

        if self.task is None or snapshot.task != self.task.name:
            raise ValueError(f"the snapshot is of task {snapshot.task}, the robot runs {self.task and self.task.name}")
        environment = self._current().environment
        mujoco.mj_setState(environment.model, environment.data, snapshot.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(environment.model, environment.data)
        for name, value in snapshot.environment.items():
            setattr(environment, name, copy.copy(value))
        for name, value in snapshot.robot.items():
            setattr(self, name, copy.copy(value))

    def scene_positions(self) -> npt.NDArray[np.float32]:
        """Return where the object and the goal are, [6] in metres: labels for training, never a policy's input.

        In a memory task both are what the hand should be above now.
        """
        if self.memory is not None:
            return np.tile(np.array(self.memory.target(), dtype=np.float32), 2)
        return np.concatenate((self._observation[4:7], self._observation[36:39])).astype(np.float32)

    def render(self, camera: str) -> npt.NDArray[np.uint8]:
        """Return the picture of `camera`, [H, W, 3] uint8 RGB, upright."""
        scene = self._current()
        scene.renderer.update_scene(scene.environment.data, camera)
        if self.memory is not None:
            draw(scene.renderer.scene, self.memory.balls())
        picture = scene.renderer.render()
        if camera == "corner2":  # this camera hangs upside down in the scene
            picture = picture[::-1, ::-1]
        return np.ascontiguousarray(picture)

    def close(self) -> None:
        """Free the renderers."""
        for scene in self._scenes.values():
            if scene.renderer is not None:
                scene.renderer.close()
        self._scenes.clear()

    def _current(self) -> _Scene:
        if self.task is None:
            raise RuntimeError("call reset(task, seed) first: no task is loaded")
        return self._scenes[self.task.name]

    def _scene(self, task: Task) -> _Scene:
        if task.name not in self._scenes:
            self._scenes[task.name] = self._make_scene(task)
        return self._scenes[task.name]

    def _make_scene(self, task: Task) -> _Scene:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

        environment = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task.environment}-goal-observable"](seed=0)
        # reset(seed=...) is ignored by Meta-World: this is what makes a seed place the objects
        environment._freeze_rand_vec = False
        environment.seeded_rand_vec = True
        # a robot has no step limit; the caller ends an episode
        environment.max_path_length = _UNLIMITED_STEPS
        renderer = self._make_renderer(environment.model) if self.image_size else None
        return _Scene(environment, make_expert(task.environment), renderer)

    def _make_renderer(self, model: Any) -> Any:
        model.cam_pos[model.camera("corner2").id] = _CORNER2_POSITION
        model.vis.quality.offsamples = 0  # multisampling costs ten times the frame on a CPU
        return make_renderer(model, self.image_size, self.image_size)
