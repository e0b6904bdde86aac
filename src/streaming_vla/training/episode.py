"""Records one demonstration: the expert disturbed or replaced now and then, and its own answer at every step.

What is executed and what is learned are two things. Bursts of random actions, or a policy that is at the wheel for a
while, bring the arm to states that the expert alone never visits; at every frame the simulation is branched and the
expert says what it would do from there, so that every frame carries a whole window of its actions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.frames import encode_frame
from streaming_vla.sim.memory_episode import Phase
from streaming_vla.sim.metaworld import MetaWorldRobot
from streaming_vla.training.plan import Recording

Action = npt.NDArray[np.float32]
Pilot = Callable[[MetaWorldRobot], Action]  # the action to execute now, [4]

WINDOW = 16  # actions of a window, the trained horizon of the shipped policy
GRIPPER_KEPT = 0.85  # share of the bursts that leave the gripper alone: a dropped object is rarely recovered
STEPS_AFTER_SUCCESS = 12
FIELDS = ("step", "state", "previous", "window", "scene", "recall", "waiting")


class Perturbation:
    """Bursts of random actions of 3 to 8 steps; asks for the action to execute instead of the expert's."""

    def __init__(self, probability: float, random: np.random.Generator) -> None:
        self._probability = probability
        self._random = random
        self._left = 0
        self._push = np.zeros(4, dtype=np.float32)

    def apply(self, wanted: Action) -> Action:
        """Return the action to execute, [4]."""
        if self._left == 0 and self._random.random() < self._probability:
            self._left = int(self._random.integers(3, 9))
            self._push = self._random.uniform(-1.0, 1.0, 4).astype(np.float32)
            if self._random.random() < GRIPPER_KEPT:
                self._push[3] = np.nan  # the gripper keeps doing what is wanted
        if self._left == 0:
            return wanted
        self._left -= 1
        return np.where(np.isnan(self._push), wanted, self._push).astype(np.float32)


def expert_window(robot: MetaWorldRobot) -> npt.NDArray[np.float32]:
    """Return what the expert would do from here on, [WINDOW, 4]; the robot is left as it was."""
    here = robot.snapshot()
    actions = []
    for _ in range(WINDOW):
        actions.append(robot.expert_action())
        robot.step(actions[-1])
    robot.restore(here)
    return np.stack(actions)


def record_episode(
    robot: MetaWorldRobot, task: str, seed: int, options: Recording, image_size: int, pilot: Pilot | None = None
) -> dict[str, np.ndarray]:
    """Run one episode and return its arrays for F frames.

    Args:
        image_size: stored picture size in pixels; the robot should render at twice that.
        pilot: at the wheel at first, before the expert; None: the expert all along.

    Returns:
        Of F frames, the names in FIELDS: step [F] int32 (environment step of the frame), state [F, 4], previous [F, 4]
        (the action executed before), window [F, WINDOW, 4] (the expert's own from here on), scene [F, 6] (see
        MetaWorldRobot.scene_positions), all float32, recall [F] int64 (see MetaWorldRobot.memory_label) and waiting [F]
        bool (the wait of a memory task); jpeg [bytes] uint8, offset [F, cameras, 2] int64 into it; of every step
        executed, path (the state before it) and answer (the expert's action there), all [steps, 4] float32;
        success [1] bool.
    """
    random = np.random.default_rng((seed, pilot is not None, *task.encode()))
    burst = options.burst_probability if random.random() < options.perturbed else 0.0
    perturbation = Perturbation(burst, random)
    piloted = int(random.integers(*options.piloted_steps)) if pilot is not None else 0
    first = int(random.integers(options.frame_every))
    robot.reset(task, seed, options.wait_steps)
    frames: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    blob, offsets = bytearray(), []
    path, answers, executed = [], [], []
    previous = np.array([0.0, 0.0, 0.0, -1.0], dtype=np.float32)
    left = STEPS_AFTER_SUCCESS
    for step in range(options.maximum_steps):
        if step % options.frame_every == first:
            spans = []
            for camera in robot.cameras:
                data = encode_frame(robot.render(camera), image_size)
                spans.append((len(blob), len(blob) + len(data)))
                blob += data
            offsets.append(spans)
            waiting = robot.memory is not None and robot.memory.phase is Phase.WAIT
            seen = (np.int32(step), robot.state(), previous, expert_window(robot), robot.scene_positions())
            values = (*seen, robot.memory_label(), waiting)
            for column, value in zip(frames.values(), values, strict=True):
                column.append(np.asarray(value))
        path.append(robot.state())
        answers.append(robot.expert_action())
        wanted = pilot(robot) if pilot is not None and step < piloted else answers[-1]
        previous = perturbation.apply(wanted)
        executed.append(previous)
        if robot.step(previous):
            left -= 1
            if left == 0:
                break
        if robot.failed:
            break
    return {name: np.stack(column) for name, column in frames.items()} | {
        "jpeg": np.frombuffer(bytes(blob), dtype=np.uint8),
        "offset": np.array(offsets, dtype=np.int64),
        "executed": np.stack(executed),
        "path": np.stack(path),
        "answer": np.stack(answers),
        "success": np.array([robot.success]),
    }
