"""A policy runs the simulated robot in closed loop: no ROS, no wall clock, one action per environment step.

The schedule is the suite's own, counted in actions instead of seconds: a context is executed for the execution horizon;
the next observation is taken `age` actions before that, so that it is so old when its context takes over; a context may
also come `late`, and the old one goes on meanwhile (overrun).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kv_cache.cache import SessionCache
from streaming_vla.engine.options import CacheOptions
from streaming_vla.machines.generator_options import STARTS
from streaming_vla.machines.hand_over import skipped_actions
from streaming_vla.policies.compact.chunk_head import ChunkBegin
from streaming_vla.policies.contract import (
    ChunkPolicy,
    FlowPolicy,
    FlowQuery,
    PolicyObservation,
    prefill_whole,
    run_slices,
)
from streaming_vla.policies.layout import Vector
from streaming_vla.sim.frames import as_seen
from streaming_vla.sim.robot import SimulatedRobot
from streaming_vla.workbench.evaluation.cache_options import NEWEST_ONLY, fitted
from streaming_vla.workbench.evaluation.chunk_log import ChunkLog

DENOISING_STEPS = 5  # Euler steps of a chunk
HEADS = ("flow", "chunk")


@dataclass(frozen=True)
class RunnerOptions:
    """How a policy is run.

    Args:
        age: actions of the old context that are executed after a new observation is taken.
        late: actions past the execution horizon at which every new context takes over.
        cache: what is kept of the history.
        head: "flow" (one action at a time) or "chunk" (all actions of a context denoised at once).
        blank: cameras whose pictures are black.
        start: what the sum of a new flow counts from, see machines/hand_over.py; it must be the one that was learned.
        seed: of the chunk's noise.
    """

    age: int = 0
    late: int = 0
    cache: CacheOptions = NEWEST_ONLY
    head: str = "flow"
    blank: tuple[str, ...] = ()
    start: str = "rezero"
    seed: int = 0

    def check(self, policy: FlowPolicy) -> None:
        """Check the options against a policy.

        Raises:
            ValueError: an option that the policy cannot be run with.
        """
        spec = policy.spec
        if self.head not in HEADS:
            raise ValueError(f"head '{self.head}' is unknown: choose one of {', '.join(HEADS)}")
        if self.start not in STARTS:
            raise ValueError(f"start '{self.start}' is unknown: choose one of {', '.join(STARTS)}")
        if self.head == "chunk" and not hasattr(policy, "chunks"):
            raise ValueError(f"head chunk needs a compact policy, {spec.name} has one head: take flow")
        horizon = cast(Any, policy).chunks.spec.trained_horizon if self.head == "chunk" else spec.trained_horizon
        if spec.chunk and self.age + self.late > 0:
            raise ValueError(f"age is {self.age} and late {self.late}: rows of {spec.name} have fixed times, give 0")
        overrun = horizon - spec.execution_horizon
        if not 0 <= self.age <= spec.execution_horizon:
            raise ValueError(
                f"age {self.age} does not fit policy {spec.name}: 0 to its {spec.execution_horizon} executed actions"
            )
        if not 0 <= self.late <= overrun:
            raise ValueError(
                f"late is {self.late}: policy {spec.name} can go on for 0 to {overrun} actions past its horizon"
            )
        unknown = set(self.blank) - set(spec.cameras)
        if unknown:
            raise ValueError(f"blank names cameras {sorted(unknown)}, the policy has {', '.join(spec.cameras)}")
        fitted(self.cache, spec)


class ClosedLoopRunner:
    """Gives the actions of a policy through one episode after the other.

    Attributes:
        cache: of the episode.
        chunks: what became of its chunks since the episode began.
        looks: steps of the episode at which an observation was taken.
        pictures: of the first camera, one per observation, where they are asked for: [S, S, 3].
    """

    def __init__(self, policy: FlowPolicy, options: RunnerOptions, keep_pictures: bool = False) -> None:
        options.check(policy)
        self._policy, self._options, self._keep_pictures = policy, options, keep_pictures
        self.begin("")

    def begin(self, instruction: str, seed: int = 0) -> None:
        """Forget the episode before; `seed` is of what is drawn in this one."""
        self._instruction = instruction
        self._noise = np.random.default_rng((self._options.seed, seed))
        spec = self._policy.spec
        self.cache = SessionCache(spec.cache, fitted(self._options.cache, spec, seed), device=spec.device)
        self.chunks = ChunkLog()
        self.looks: list[int] = []
        self.pictures: list[npt.NDArray[np.uint8]] = []
        self._steps = 0
        self._look_now = True
        self._index = self._first = 0
        self._last: Vector | None = None
        self._past: list[Vector] = []
        self._executed = self._at_picture = self._policy.spec.layout.start()  # sums
        self._chunk = np.zeros((0, self._policy.spec.layout.size))
        self._newest: Any = None  # what the newest prefill left for the policy

    def __call__(self, robot: SimulatedRobot) -> npt.NDArray[np.float32]:
        """Return the action to execute now, [A]; looks at the robot when it is time to."""
        spec, options = self._policy.spec, self._options
        span = spec.execution_horizon + options.late  # the actions of a context that are executed
        if self._look_now:
            self._observe(robot)
            self._take_over(robot)
            self._look_now = False
        elif self._index == span:
            if options.age + options.late == 0:
                self._observe(robot)
            self._take_over(robot)
        elif self._index == span - options.age - options.late:
            self._observe(robot)
        action = self._chunk[self._index] if options.head == "chunk" else self._step(robot)
        self._index += 1
        self._steps += 1
        self._last = action
        self._past.append(action)
        self._executed = self._policy.spec.layout.advance(self._executed, action)
        return action.astype(np.float32)

    def insert(self, keys: Tensor, values: Tensor) -> None:
        """Give the cache an observation that was not taken now; the next call looks at the robot, whatever is left.

        Args:
            keys, values: [L, Hkv, T, d], keys before rotation.
        """
        self._append(keys, values)
        self._look_now = True

    def look(self, robot: SimulatedRobot) -> PolicyObservation:
        """Return what the policy would see now."""
        spec = self._policy.spec
        images = np.stack([as_seen(robot.render(camera), spec.image_size) for camera in spec.cameras])
        for camera in self._options.blank:
            images[spec.cameras.index(camera)] = 0
        return PolicyObservation(images, robot.state(), self._instruction)

    def _take_over(self, robot: SimulatedRobot) -> None:
        """Begin with the newest context."""
        self._view = self.cache.view()
        self._context = self._newest
        spec, layout = self._policy.spec, self._policy.spec.layout
        # what a policy has not learned to begin behind its picture is skipped, as the generator does
        self._first = skipped_actions(spec, self._steps - self.looks[-1], spec.trained_delay)
        skipped = sum(self._past[len(self._past) - self._first :], start=layout.start())
        sums = {"rezero": skipped, "episode": self._executed, "pending": self._executed - self._at_picture}
        self._position = np.where(layout.absolute, layout.start(self._last), sums[self._options.start])
        self._begun = self._position
        self._index = 0
        if self._options.head == "chunk":
            targets = np.where(layout.absolute, self._position, 0.0)
            self._chunk = self._denoise(ChunkBegin(robot.state(), targets, age=self._first))

    def _step(self, robot: SimulatedRobot) -> npt.NDArray[np.float64]:
        step = min(self._first + self._index, self._policy.spec.trained_horizon - 1)
        query = FlowQuery(
            self._view,
            self._position,
            step,
            self._context,
            robot.state(),
            state_age_s=0.0,
            first=self._first,
            begun=self._begun,
        )
        action = self._policy.flow_step(query)
        self._position = self._policy.spec.layout.advance(self._position, action)
        return action

    def _denoise(self, begin: ChunkBegin) -> npt.NDArray[np.float64]:
        policy: ChunkPolicy = cast(Any, self._policy).chunks
        work = policy.denoise(self._view, begin, DENOISING_STEPS, None, self._noise)
        return policy.spec.layout.clip(run_slices(work))

    def _observe(self, robot: SimulatedRobot) -> None:
        self._at_picture = self._executed
        observation = self.look(robot)
        prefilled = prefill_whole(self._policy, observation, self.cache.view())
        self._append(prefilled.keys, prefilled.values)
        self._newest = prefilled.context
        complete = getattr(self._policy, "complete", None)  # of a policy of chunks
        if complete is not None:
            self._newest = run_slices(complete(observation, self.cache.view(), prefilled.context))
        if self._keep_pictures:
            self.pictures.append(observation.images[0])

    def _append(self, keys: Tensor, values: Tensor) -> None:
        self.cache.append(keys, values)
        self.looks.append(self._steps)
        stats = self.cache.stats()
        held = (number for number, _ in self.cache.kept_chunks())
        self.chunks.add(stats.chunks_kept, stats.chunks_dropped, stats.chunks_evicted, stats.scores, held)
