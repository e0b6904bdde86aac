"""The contract of a streaming policy: what any model must offer to be run by the suite."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kv_cache.cache import CacheView
from kv_cache.spec import CacheSpec
from streaming_vla.policies.guide import Guide
from streaming_vla.policies.layout import ActionLayout, Vector

__all__ = [
    "BatchingPolicy",
    "ChunkPolicy",
    "FlowQuery",
    "Guide",
    "PlanningPolicy",
    "PolicyObservation",
    "PolicySpec",
    "Prefilled",
    "StreamingPolicy",
    "prefill_whole",
    "run_slices",
]

Result = TypeVar("Result")


@dataclass(frozen=True)
class PolicySpec:
    """What a policy is fed and what it gives.

    Args:
        name: of the model.
        cameras: names, in the order of the pictures.
        image_size: S of its square pictures, pixels.
        state_size: numbers of the robot's state.
        layout: of its actions.
        execution_horizon: actions that a context is meant to execute.
        trained_horizon: actions that it may execute at most (overrun).
        tokens_per_observation: tokens T that a prefill adds to the cache.
        cache: shape of a token's keys and values.

    Raises:
        ValueError: a size is not positive, cameras repeat or are missing, or the horizons are in the wrong order.
    """

    name: str
    cameras: tuple[str, ...]
    image_size: int
    state_size: int
    layout: ActionLayout
    execution_horizon: int
    trained_horizon: int
    tokens_per_observation: int
    cache: CacheSpec

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"policy {self.name}: cameras are {self.cameras}, expected one or more different names")
        for field in ("image_size", "state_size", "execution_horizon", "tokens_per_observation"):
            if getattr(self, field) < 1:
                raise ValueError(f"policy {self.name}: {field} is {getattr(self, field)}, it must be at least 1")
        if self.trained_horizon < self.execution_horizon:
            raise ValueError(
                f"policy {self.name}: trained_horizon {self.trained_horizon} is below "
                f"execution_horizon {self.execution_horizon}"
            )


@dataclass(frozen=True)
class PolicyObservation:
    """What a policy sees at one instant.

    Args:
        images: [cameras, S, S, 3], RGB.
        state: [state_size], in the policy's order and units.
        instruction: plain text.
        pending: [A], sum of the actions that will be executed between the pictures and the hand-over (newest value for
            absolute dimensions): a policy with a look-ahead predictor moves the base camera's tokens on by them. None
            leaves the pictures as they are.
    """

    images: npt.NDArray[np.uint8]
    state: npt.NDArray[np.float32]
    instruction: str
    pending: Vector | None = None


class Prefilled(NamedTuple):
    """What a prefill makes of an observation.

    keys before rotation and values of the new tokens, each [L, Hkv, T, d]; seen [tokens, features] is what `look_ahead`
    is given later, None when the policy has no look-ahead predictor.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor | None = None


@dataclass(frozen=True, eq=False)
class FlowQuery:
    """A step of the flow that is asked for: the arguments of StreamingPolicy.flow_step."""

    view: CacheView
    position: Vector
    index: int


class StreamingPolicy(Protocol):
    """A policy as the engine runs it: one thread, inference mode, work in slices."""

    @property
    def spec(self) -> PolicySpec:
        """What it is fed and what it gives."""

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Generator[None, None, Prefilled]:
        """Turn an observation into tokens that follow `view`.

        Yields between slices, so that a flow step never waits for more than one of them.
        """

    def flow_step(self, view: CacheView, position: Vector, index: int) -> Vector:
        """Return action `index` of the context that `view` ends with, [A], clipped to the layout.

        Args:
            view: the history, the context's own observation last.
            position: [A], the flow's state (see ActionLayout.start and advance).
            index: step of the flow, 0 .. trained_horizon - 1; its time is index / trained_horizon.
        """

    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Return how much the pending actions change what the cameras see, in units of a typical change.

        Args:
            seen: what the prefill left of the observation, see Prefilled.
            pending: [A], sum of the actions (newest value for absolute dimensions).
        """


class BatchingPolicy(StreamingPolicy, Protocol):
    """A policy that also does flow steps of several contexts in one pass; the engine asks it where shapes allow."""

    def flow_steps(self, queries: Sequence[FlowQuery]) -> list[Vector]:
        """Return what `flow_step` returns of each; the views have as many tokens and the same next position."""


class PlanningPolicy(StreamingPolicy, Protocol):
    """A policy that also says in one pass, and roughly, what it is going to do with a context."""

    def plan(self, view: CacheView) -> Vector:
        """Return all actions of the context that `view` ends with, [trained_horizon, A], clipped to the layout.

        They need not be what flow steps give: those know how far the motion has come.
        """


def run_slices(work: Generator[None, None, Result]) -> Result:
    """Run all slices of a piece of work, for callers that nobody waits beside; returns what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: Result = done.value
            return result


def prefill_whole(policy: StreamingPolicy, observation: PolicyObservation, view: CacheView) -> Prefilled:
    """Run all slices of a prefill; returns what `prefill` does."""
    return run_slices(policy.prefill(observation, view))


class ChunkPolicy(StreamingPolicy, Protocol):
    """A policy that also denoises a whole chunk of actions at once, for the baselines that need one."""

    def chunk_step(
        self, view: CacheView, noisy: Vector, time: float, duration: float, guide: Guide | None = None
    ) -> Vector:
        """Return the chunk [H, A] after one Euler step of its denoising; H is the trained horizon.

        Args:
            view: the history, the context's own observation last.
            noisy: [H, A], at `time`: standard normal noise at 0, actions (not yet clipped) at 1.
            time, duration: where the step begins and how far it goes.
            guide: pulls the chunk towards known actions.
        """
