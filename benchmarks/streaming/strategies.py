"""Every strategy of the study by name: what its monitor and its source of actions are set to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from baselines.client import ClientMonitor
from baselines.generator import ChunkGenerator, ChunkGeneratorOptions
from baselines.shifted import ShiftedChunks
from baselines.similarity import Similarity
from baselines.strategies import (
    AsyncQueue,
    ChunkHandOver,
    FutureState,
    RealTimeChunking,
    Synchronous,
    TemporalEnsembling,
)
from baselines.strategy import Strategy

from streaming_vla.engine.values import EncodedObservation
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.machines.monitor import Monitor
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.options.option import Options
from streaming_vla.options.shared import layout_values
from streaming_vla.policies.chunk import ChunkAsStream
from streaming_vla.policies.contract import ChunkPolicy, FlowPolicy
from streaming_vla.policies.layout import ActionLayout, Vector
from streaming_vla.workbench.virtual.setup import ALWAYS, OVERRUN, Assembly, StreamSetup

OFF = MonitorOptions(mode="off")
EXECUTE = 10  # actions of a chunk that are executed, where nothing else is said


class MakesStrategy(Protocol):
    """A dataclass of a strategy's parameters that makes the strategy."""

    def __call__(self, layout: ActionLayout) -> Strategy:
        """Return the strategy for a policy of chunks with this layout."""


@dataclass(frozen=True)
class Setup:
    """One strategy, see streaming_vla.workbench.virtual.setup.

    Args:
        about: what it does, one line.
        monitor: options; control period and early actions of chunks are filled in.
        generator: options of the action flow's generator; None when `chunks` is given.
        chunks: parameters and maker of the strategy of a chunk policy.
        similarity: LeRobot's filter, distance in units of the robot's state; 0: none.
        replace_tokens: the action flow's pictures are moved on by the predictor over the actions that they lack.
    """

    about: str
    monitor: MonitorOptions = OFF
    generator: GeneratorOptions | None = None
    chunks: MakesStrategy | None = None
    similarity: float = 0.0
    replace_tokens: bool = False

    @property
    def needs_predictor(self) -> bool:
        """Whether the policy's look-ahead predictor is asked."""
        asking = self.monitor.mode == "adaptive" and self.monitor.saliency_of == "pictures"
        return asking or self.replace_tokens

    @property
    def exact(self) -> bool:
        """Whether its chunks are guided through the true Jacobian."""
        return bool(getattr(self.chunks, "exact", False))

    def monitor_options(self, control_period_s: float, layout: ActionLayout, horizon: int) -> MonitorOptions:
        """Return the monitor's options.

        Args:
            horizon: H, actions of a chunk.
        """
        options = self.monitor.changed(control_period_s=control_period_s, **layout_values(layout))
        if self.chunks is None:
            return options
        early = self.chunks(layout).early_actions(horizon)
        if early is None:
            return options.changed(mode="off")
        return options.changed(mode="always", early_actions=min(early, horizon), last_chance=False)

    def assemble(self, policy: FlowPolicy, period_s: float, seed: int, state: Callable[[], Vector]) -> Assembly:
        """Return the parts of one episode; see Setup of the virtual clock."""
        if self.chunks is None:
            assert self.generator is not None, "a strategy has a generator, or it is one for chunks"
            return StreamSetup(self.monitor, self.generator, self.replace_tokens).assemble(
                policy, period_s, seed, state
            )
        chunks: ChunkPolicy = policy.chunks  # type: ignore[attr-defined]
        seen = _NewestState(state)
        strategy, source, monitor = self.machines(period_s, chunks.spec.layout, chunks.spec.trained_horizon, seen.moved)

        def prepare(observation: EncodedObservation) -> EncodedObservation:
            seen.at_picture = observation.state
            return observation

        return Assembly(
            ChunkAsStream(ShiftedChunks(chunks, source), replace(strategy.denoising, seed=seed)),
            source,
            monitor,
            denoising_steps=strategy.steps,
            prepare=prepare,
            hear_contexts=("generator",),
        )

    def machines(
        self, period_s: float, layout: ActionLayout, horizon: int, moved: Callable[[], float]
    ) -> tuple[Strategy, ChunkGenerator, Monitor]:
        """Return a strategy for chunks, its queue and its monitor.

        Args:
            period_s: control period, seconds.
            horizon: H, actions of a chunk.
            moved: returns how far the robot has moved since its newest observation.
        """
        assert self.chunks is not None, "an action flow has no queue"
        strategy, options = self.chunks(layout), self.monitor_options(period_s, layout, horizon)
        if not isinstance(strategy, AsyncQueue):
            return strategy, ChunkGenerator(layout, strategy, ChunkGeneratorOptions(horizon)), Monitor(options)
        source = ChunkGenerator(layout, strategy, ChunkGeneratorOptions(horizon, tick_s=period_s))
        similar = Similarity(moved, self.similarity) if self.similarity else None
        return strategy, source, ClientMonitor(options, source, strategy.most_queued(horizon), similar)


class _NewestState:
    """How far the robot has moved since its newest observation.

    Args:
        state: returns its state, [state_size].
    """

    def __init__(self, state: Callable[[], Vector]) -> None:
        self._state = state
        self.at_picture: Vector | None = None

    def moved(self) -> float:
        """Return the Euclidean distance, infinity before the first."""
        return math.inf if self.at_picture is None else float(np.linalg.norm(self._state() - self.at_picture))


def changed(setup: Setup, changes: Mapping[str, Mapping[str, Any]]) -> Setup:
    """Return `setup` with other parameters.

    Args:
        changes: by part ("monitor", "generator", "chunks", "setup" for Setup's own) and name.

    Raises:
        ValueError: the setup has no such part or parameter, or a value out of range.
    """
    for part, values in changes.items():
        try:
            if part == "setup":
                setup = replace(setup, **values)
            else:
                given = getattr(setup, part)
                new: Any = given.changed(**values) if isinstance(given, Options) else replace(given, **values)
                setup = replace(setup, **{part: new})
        except (AttributeError, TypeError) as error:
            raise ValueError(f"strategy '{setup.about}' cannot change {part} {dict(values)}: {error}") from error
    return setup


PUBLISHED = GeneratorOptions(overrun=False)
AEO = MonitorOptions(mode="adaptive", saliency_of="pictures", early_actions=2, observe_when="calm", last_chance=False)


def _saliency(mode: str, **options: float | str | bool) -> MonitorOptions:
    return ALWAYS.changed(mode=mode, **options)


@dataclass(frozen=True)
class _Synchronous:
    """Makes synchronous control."""

    execute: int
    steps: int = 10

    def __call__(self, layout: ActionLayout) -> Strategy:
        return Synchronous(self.execute, self.steps)


@dataclass(frozen=True)
class _Ensembling:
    """Makes temporal ensembling."""

    decay: float = 0.01
    steps: int = 10

    def __call__(self, layout: ActionLayout) -> Strategy:
        return TemporalEnsembling(self.decay, self.steps)


@dataclass(frozen=True)
class _FutureState:
    """Makes VLASH's future state."""

    execute: int = EXECUTE
    early: int = 0
    steps: int = 10

    def __call__(self, layout: ActionLayout) -> Strategy:
        return FutureState(layout, self.execute, self.early, self.steps)


@dataclass(frozen=True)
class _Queue:
    """Makes LeRobot's queue."""

    merge: str = "weighted_average"
    threshold: float = 0.5
    steps: int = 10

    def __call__(self, layout: ActionLayout) -> Strategy:
        return AsyncQueue(self.merge, self.threshold, self.steps)


@dataclass(frozen=True)
class _HandOver:
    """Makes a chunk hand-over."""

    first: str
    overrun: bool = True
    early: int = 0
    execute: int = EXECUTE
    steps: int = 10

    def __call__(self, layout: ActionLayout) -> Strategy:
        return ChunkHandOver(self.execute, self.first, self.overrun, self.early, self.steps)


@dataclass(frozen=True)
class _Rtc:
    """Makes real-time chunking."""

    exact: bool = False
    least: int = 5
    beta: float = 5.0
    steps: int = 5

    def __call__(self, layout: ActionLayout) -> Strategy:
        return RealTimeChunking(self.least, self.beta, self.exact, self.steps)


STRATEGIES: dict[str, Setup] = {
    "synchronous_5": Setup("chunk, execute 5, observe when nothing is left", chunks=_Synchronous(5)),
    "synchronous_10": Setup("chunk, execute 10, observe when nothing is left", chunks=_Synchronous(10)),
    "temporal_ensembling": Setup("ACT: a chunk before every action, averaged", chunks=_Ensembling()),
    "lerobot_weighted_average": Setup("LeRobot's queue, 0.3 old + 0.7 new", chunks=_Queue()),
    "lerobot_latest_only": Setup("LeRobot's queue, the newest action", chunks=_Queue("latest_only")),
    "lerobot_average": Setup("LeRobot's queue, the mean", chunks=_Queue("average")),
    "lerobot_conservative": Setup("LeRobot's queue, 0.7 old + 0.3 new", chunks=_Queue("conservative")),
    "lerobot_similarity": Setup("LeRobot's queue with its similarity filter (1 cm)", chunks=_Queue(), similarity=0.01),
    "rtc": Setup("real-time chunking, identity for the Jacobian", chunks=_Rtc()),
    "rtc_exact": Setup("real-time chunking, true Jacobian", chunks=_Rtc(exact=True)),
    "vlash": Setup("VLASH: the state after the pending actions", chunks=_FutureState()),
    "chunk_naive_early": Setup("chunk, observe with 2 actions left", chunks=_HandOver("zero", overrun=False, early=2)),
    "chunk_from_m": Setup("chunk, observe early, new chunk from index m", chunks=_HandOver("elapsed")),
    "chunk_from_0": Setup("chunk, observe early, new chunk from index 0", chunks=_HandOver("zero")),
    "afm": Setup("action flow, observe when nothing is left", OFF, PUBLISHED),
    "afm_naive_early": Setup(
        "action flow, observe with 2 actions left", MonitorOptions(mode="always", early_actions=2), PUBLISHED
    ),
    "afm_random_early": Setup(
        "action flow, observe with 2 actions left at random",
        MonitorOptions(mode="random", early_actions=2, last_chance=False),
        PUBLISHED,
    ),
    "afm_aeo": Setup(
        "StreamingVLA: observe with 2 actions left where the change is small, tokens replaced by the prediction",
        AEO,
        PUBLISHED,
        replace_tokens=True,
    ),
    "afm_aeo_stale": Setup("the same, tokens as they were seen", AEO, PUBLISHED),
    "ours": Setup("action flow, m as measured, overrun", ALWAYS, OVERRUN),
    "ours_replacing": Setup(
        "ours, tokens replaced by the prediction",
        ALWAYS,
        OVERRUN,
        replace_tokens=True,
    ),
    "ours_adaptive": Setup("ours, observe where the gripper is about to switch", _saliency("adaptive"), OVERRUN),
    "ours_predicted": Setup(
        "ours, observe where the pictures have changed", _saliency("adaptive", saliency_of="pictures"), OVERRUN
    ),
    "ours_doubt": Setup("ours, observe where the policy doubts", _saliency("adaptive", saliency_of="doubt"), OVERRUN),
    "ours_random": Setup("ours, observe early at random", _saliency("random"), OVERRUN),
    "ours_action_norm": Setup("ours, observe when the arm has moved", _saliency("action_norm"), OVERRUN),
}


def find_strategy(name: str) -> Setup:
    """Return the strategy `name`.

    Raises:
        ValueError: there is no such strategy; the message lists them.
    """
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy '{name}': choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
