"""The policy contract: what the suite asks of a policy. Two kinds: a flow policy gives one action per step, a chunk
policy denoises all actions of its horizon at once (chunk.py makes a stream of it).

The engine calls a policy from one thread, in inference mode and in slices.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kv_cache.cache import CacheView
from kv_cache.spec import CacheSpec
from streaming_vla.policies.guide import Guide, Matrix
from streaming_vla.policies.image_fit import ImageFit
from streaming_vla.policies.layout import ActionLayout, Vector

__all__ = [
    "EMPTY_TOKEN",
    "BatchingPolicy",
    "ChunkPolicy",
    "CompletingPolicy",
    "DoubtingPolicy",
    "FlowPolicy",
    "FlowQuery",
    "Guide",
    "Matrix",
    "PlannedActions",
    "PlanningPolicy",
    "PolicyObservation",
    "PolicySpec",
    "PolicyTimeout",
    "PolicyUnavailable",
    "Prefilled",
    "ReportingPolicy",
    "Slices",
    "WarmingPolicy",
    "prefill_whole",
    "reported_figures",
    "run_slices",
]

EMPTY_TOKEN = CacheSpec(layers=1, kv_heads=1, head_dim=2)  # stands for an observation that nobody remembers
FITS = get_args(ImageFit)
Result = TypeVar("Result")


class PolicyUnavailable(Exception):
    """The policy cannot make a context now; the message says why, and what to do about it. No error of the code."""

    code: ClassVar[str] = "policy_unavailable"


class PolicyTimeout(PolicyUnavailable):
    """What the policy waited for has not come in time."""

    code = "policy_timeout"


Slices = Generator["Future[Any] | None", None, Result]
"""Work in slices: it yields between them, so that nobody waits for more than one.

It may yield a Future for which the next slice has to wait: what blocks (a plain function, a server) runs on a thread of
its own meanwhile.
"""


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
        tokens_per_observation: most tokens that a prefill adds to the cache; language may make it fewer.
        cache: shape of a token's keys and values; a policy without a history leaves both as they are.
        trained_delay: a context may begin so many actions behind its picture at most, as the policy has learned it;
            one that begins later skips as many actions as it is late.
        control_period_s: seconds that an action lasts; None: any.
        image_fit: how a camera's picture becomes square: "crop" (the middle), "letterbox" (padded on both sides) or
            "letterbox_left_top".
        pad_value: of the padding, 0 to 255.
        state_names: of the numbers of the state; empty: not told.
        action_units: of each action dimension, for people; empty: not told.
        chunk: all actions of a context exist with it, and each belongs to a fixed time behind the picture.
        denoise_steps: Euler steps from noise to a chunk, as they are meant.
        device: where keys and values of its tokens live, as torch names it: the cache of a session is made there.

    Raises:
        ValueError: a size is not positive, names repeat or are missing, or the horizons are in the wrong order.
    """

    name: str
    cameras: tuple[str, ...]
    image_size: int
    state_size: int
    layout: ActionLayout
    execution_horizon: int
    trained_horizon: int
    tokens_per_observation: int = 1
    cache: CacheSpec = EMPTY_TOKEN
    trained_delay: int = 0
    control_period_s: float | None = None
    image_fit: str = "crop"
    pad_value: int = 0
    state_names: tuple[str, ...] = ()
    action_units: tuple[str, ...] = ()
    chunk: bool = False
    denoise_steps: int = 10
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"policy {self.name}: cameras are {self.cameras}, expected one or more different names")
        for field in ("image_size", "state_size", "execution_horizon", "tokens_per_observation", "denoise_steps"):
            if getattr(self, field) < 1:
                raise ValueError(f"policy {self.name}: {field} is {getattr(self, field)}, it must be at least 1")
        if self.trained_horizon < self.execution_horizon:
            raise ValueError(
                f"policy {self.name}: trained_horizon {self.trained_horizon} is below "
                f"execution_horizon {self.execution_horizon}"
            )
        if self.trained_delay < 0:
            raise ValueError(f"policy {self.name}: trained_delay is {self.trained_delay}, it must be 0 or more")
        if self.control_period_s is not None and not self.control_period_s > 0.0:
            raise ValueError(f"policy {self.name}: control_period_s is {self.control_period_s}, it must be above 0")
        if self.image_fit not in FITS or not 0 <= self.pad_value <= 255:
            raise ValueError(
                f"policy {self.name}: image_fit is '{self.image_fit}' and pad_value {self.pad_value}, expected one of "
                f"{', '.join(FITS)} and 0 to 255"
            )
        for field, count in (("state_names", self.state_size), ("action_units", self.layout.size)):
            if getattr(self, field) and len(getattr(self, field)) != count:
                raise ValueError(
                    f"policy {self.name}: {field} has {len(getattr(self, field))} entries, expected {count}"
                )


@dataclass(frozen=True)
class PlannedActions:
    """What will be executed from a picture on, as far as it is planned already (real-time chunking).

    Args:
        actions: [n, A], of the action that began with the picture and all that are planned behind it.
        delay: actions that are expected to be executed before the new context takes over.
    """

    actions: Matrix
    delay: int


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
        planned: returns what is known of the planned actions when it is called; a chunk's denoising may be guided by
            them.
    """

    images: npt.NDArray[np.uint8]
    state: npt.NDArray[np.float32]
    instruction: str
    pending: Vector | None = None
    planned: Callable[[], PlannedActions | None] = lambda: None


class Prefilled(NamedTuple):
    """What a prefill makes of an observation.

    keys before rotation and values of the new tokens, each [L, Hkv, T, d] with 1 <= T <= tokens_per_observation;
    seen [tokens, features] is what `look_ahead` is given later, None when the policy has no look-ahead predictor;
    context is anything that the policy wants back with every later call about this observation.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor | None = None
    context: Any = None


@dataclass(frozen=True, eq=False)
class FlowQuery:
    """A step of the flow that is asked for.

    Args:
        view: the history, the context's own observation last.
        position: [A], the flow's state (see ActionLayout.start and advance).
        index: step of the flow, 0 .. trained_horizon - 1; its time is index / trained_horizon.
        context: what the prefill left (see Prefilled).
        state: [state_size], the robot's newest state, which may be newer than the picture; None: not known.
        state_age_s: how old it is, seconds.
        pending: [A], sum of the actions that will be executed between `state` and this one (newest value for absolute
            dimensions); None: not known.
        first: step with which the flow took over, or went on from another state.
        begun: [A], its state then; None: not known.
    """

    view: CacheView
    position: Vector
    index: int
    context: Any = None
    state: npt.NDArray[np.float32] | None = None
    state_age_s: float = float("nan")
    pending: Vector | None = None
    first: int = 0
    begun: Vector | None = None


class _Prefilling(Protocol):
    @property
    def spec(self) -> PolicySpec:
        """What it is fed and what it gives."""

    def prefill(self, observation: PolicyObservation, view: CacheView) -> Slices[Prefilled]:
        """Turn an observation into tokens that follow `view`, slice by slice."""


class FlowPolicy(_Prefilling, Protocol):
    """A policy that gives one action per step of its flow. What the engine runs."""

    def flow_step(self, query: FlowQuery) -> Vector:
        """Return action `query.index` of the context that `query.view` ends with, [A], clipped to the layout."""

    def look_ahead(self, seen: Tensor, pending: Vector) -> float:
        """Return how much the pending actions change what the cameras see, in units of a typical change.

        Asked only of a policy whose prefill leaves something seen.

        Args:
            seen: what the prefill left of the observation, see Prefilled.
            pending: [A], sum of the actions (newest value for absolute dimensions).
        """


class ChunkPolicy(_Prefilling, Protocol):
    """A policy that denoises a whole chunk of actions."""

    def denoise(
        self, view: CacheView, context: Any, steps: int, guide: Guide | None, random: np.random.Generator
    ) -> Slices[Matrix]:
        """Return the chunk [H, A] in action units, H the trained horizon, after `steps` Euler steps from noise.

        Yields between the steps.

        Args:
            view: the history, the context's own observation last.
            context: what the prefill left (see Prefilled).
            guide: pulls the chunk towards known actions, in action units.
            random: of the noise.
        """


class CompletingPolicy(FlowPolicy, Protocol):
    """A policy that does more for a context once its tokens are in the cache (a chunk is denoised)."""

    def complete(self, observation: PolicyObservation, view: CacheView, context: Any) -> Slices[Any]:
        """Return what is kept in the place of `context` (see Prefilled); `view` ends with the observation's tokens."""


class BatchingPolicy(FlowPolicy, Protocol):
    """A policy that also does flow steps of several contexts in one pass; the engine asks it where shapes allow."""

    def flow_steps(self, queries: Sequence[FlowQuery]) -> list[Vector]:
        """Return what `flow_step` returns of each; the views have as many tokens and the same next position."""


class DoubtingPolicy(FlowPolicy, Protocol):
    """A policy that also says how much it would gain by a look.

    Attributes:
        doubts: False where it has not learned to.
    """

    @property
    def doubts(self) -> bool: ...

    def doubt(self, query: FlowQuery) -> float:
        """Return how much less wrong the action is expected to be with a picture of now: mean over its dimensions."""


class PlanningPolicy(FlowPolicy, Protocol):
    """A policy that also says in one pass, and roughly, what it is going to do with a context."""

    def plan(self, view: CacheView, context: Any) -> Matrix:
        """Return all actions of the context that `view` ends with, [trained_horizon, A], clipped to the layout.

        They need not be what flow steps give: those know how far the motion has come.
        """


@runtime_checkable
class WarmingPolicy(Protocol):
    """A policy that has something to do before the first motion that takes long (it compiles its steps)."""

    def warm_up(self, tokens: int) -> None:
        """Do it; called once, behind the check that the policy fits, on any thread.

        Args:
            tokens: that a view has at most.
        """


class ReportingPolicy(Protocol):
    """A policy that has something to say in the diagnostics (a server that computes it)."""

    def figures(self) -> dict[str, object]:
        """Return names and values, for people; called on any thread."""


def reported_figures(policy: object) -> dict[str, object]:
    """Return what a policy says in the diagnostics; most say nothing."""
    figures: Callable[[], dict[str, object]] = getattr(policy, "figures", dict)
    return figures()


def run_slices(work: Slices[Result]) -> Result:
    """Run all slices of a piece of work, for callers that nobody waits beside; returns what it returns."""
    while True:
        try:
            said = next(work)
        except StopIteration as done:
            result: Result = done.value
            return result
        if isinstance(said, Future):
            wait([said])  # what went wrong is raised where the work asks for the result


def prefill_whole(policy: _Prefilling, observation: PolicyObservation, view: CacheView) -> Prefilled:
    """Run all slices of a prefill; returns what `prefill` does."""
    return run_slices(policy.prefill(observation, view))
