"""A policy at the wheel of the simulated robot: no ROS, no wall clock, one action per environment step.

The schedule is the suite's own, counted in actions instead of seconds: a context is executed for the execution horizon;
the next observation is taken `age` actions before that, so that it is so old when its context takes over; a context may
also come `late`, and the old one goes on meanwhile (overrun).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kv_cache.cache import SessionCache
from kv_cache.policies import make_policy
from streaming_vla.policy.contract import PolicyObservation, StreamingPolicy, prefill_whole
from streaming_vla.robots.frames import as_seen
from streaming_vla.robots.metaworld import MetaWorldRobot

DENOISING_STEPS = 5  # Euler steps of a chunk


@dataclass(frozen=True)
class PilotOptions:
    """How a policy flies.

    Args:
        age: actions of the old context that are executed after a new observation is taken.
        late: actions past the execution horizon at which every new context takes over.
        recent: tokens of history, the observation's own included; 0 keeps the newest observation only.
        head: "flow" (one action at a time) or "chunk" (all actions of a context denoised at once).
        blank: cameras whose pictures are black.
        seed: of the chunk's noise.
    """

    age: int = 0
    late: int = 0
    recent: int = 0
    head: str = "flow"
    blank: tuple[str, ...] = ()
    seed: int = 0

    def check(self, policy: StreamingPolicy) -> None:
        """Check the options against a policy.

        Raises:
            ValueError: an option that the policy cannot fly with.
        """
        spec = policy.spec
        overrun = spec.trained_horizon - spec.execution_horizon
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


class Pilot:
    """One policy's hand on the robot through one episode after the other."""

    def __init__(self, policy: StreamingPolicy, options: PilotOptions) -> None:
        options.check(policy)
        self._policy, self._options = policy, options
        recent = options.recent or policy.spec.tokens_per_observation
        kept = make_policy("window", sinks=0, recent=recent, capacity=1)
        self._cache = SessionCache(policy.spec.cache, kept)
        self.begin("")

    def begin(self, instruction: str, seed: int = 0) -> None:
        """Forget the episode before."""
        self._instruction = instruction
        self._noise = np.random.default_rng((self._options.seed, seed))
        self._cache.reset()
        self._index = 0
        self._last: npt.NDArray[np.float64] | None = None
        self._chunk = np.zeros((0, self._policy.spec.layout.size))

    def __call__(self, robot: MetaWorldRobot) -> npt.NDArray[np.float32]:
        """Return the action to execute now, [A]; looks at the robot when it is time to."""
        spec, options = self._policy.spec, self._options
        span = spec.execution_horizon + options.late  # the actions of a context that are executed
        if self._last is None:
            self._observe(robot)
            self._take_over()
        elif self._index == span:
            if options.age + options.late == 0:
                self._observe(robot)
            self._take_over()
        elif self._index == span - options.age - options.late:
            self._observe(robot)
        action = self._chunk[self._index] if options.head == "chunk" else self._step()
        self._index += 1
        self._last = action
        return action.astype(np.float32)

    def _take_over(self) -> None:
        """Begin with the newest context."""
        self._view = self._cache.view()
        layout = self._policy.spec.layout
        self._position = layout.start(self._last)
        self._index = 0
        if self._options.head == "chunk":
            self._chunk = self._denoise()

    def _step(self) -> npt.NDArray[np.float64]:
        action = self._policy.flow_step(self._view, self._position, self._index)
        self._position = self._policy.spec.layout.advance(self._position, action)
        return action

    def _denoise(self) -> npt.NDArray[np.float64]:
        spec, steps = self._policy.spec, DENOISING_STEPS
        chunk = self._noise.standard_normal((spec.trained_horizon, spec.layout.size))
        for step in range(steps):
            chunk = self._policy.chunk_step(self._view, chunk, step / steps, 1 / steps)  # type: ignore[attr-defined]
        return spec.layout.clip(chunk)

    def _observe(self, robot: MetaWorldRobot) -> None:
        spec = self._policy.spec
        images = np.stack([as_seen(robot.render(camera), spec.image_size) for camera in spec.cameras])
        for camera in self._options.blank:
            images[spec.cameras.index(camera)] = 0
        observation = PolicyObservation(images, robot.state(), self._instruction)
        prefilled = prefill_whole(self._policy, observation, self._cache.view())
        self._cache.append(prefilled.keys, prefilled.values)
