"""Every strategy of the study by name: what its monitor and its source of actions are set to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from streaming_vla.policy.layout import ActionLayout
from streaming_vla.runtime.baselines.strategies import (
    AsyncQueue,
    ChunkHandOver,
    FutureState,
    RealTimeChunking,
    Synchronous,
    TemporalEnsembling,
)
from streaming_vla.runtime.baselines.strategy import Strategy
from streaming_vla.runtime.generator import GeneratorOptions
from streaming_vla.runtime.monitor import MonitorOptions

OFF = MonitorOptions(mode="off")
EXECUTE = 10  # actions of a chunk that are executed, where nothing else is said


@dataclass(frozen=True)
class Setup:
    """One strategy.

    Args:
        about: what it does, one line.
        monitor: options; control period and early actions of chunks are filled in.
        generator: options of the action flow's generator; None when `chunks` is given.
        chunks: makes the strategy of a chunk policy for a layout.
        similarity: LeRobot's filter, distance in units of the robot's state; 0: none.
    """

    about: str
    monitor: MonitorOptions = OFF
    generator: GeneratorOptions | None = None
    chunks: Callable[[ActionLayout], Strategy] | None = None
    similarity: float = 0.0

    def generator_options(self, control_period_s: float) -> GeneratorOptions:
        """Return the options of the action flow's generator.

        Raises:
            ValueError: the strategy is one for chunks.
        """
        if self.generator is None:
            raise ValueError(f"strategy '{self.about}' is one for chunks, it has no generator of single actions")
        return replace(self.generator, control_period_s=control_period_s)

    def monitor_options(self, control_period_s: float, layout: ActionLayout, horizon: int) -> MonitorOptions:
        """Return the monitor's options.

        Args:
            horizon: H, actions of a chunk.
        """
        options = replace(self.monitor, control_period_s=control_period_s, absolute=layout.absolute)
        if self.chunks is None:
            return options
        early = self.chunks(layout).early_actions(horizon)
        if early is None:
            return replace(options, mode="off")
        return replace(options, mode="always", early_actions=min(early, horizon), last_chance=False)


STREAM = MonitorOptions(mode="always", lead_actions=0)
OVERRUN = GeneratorOptions(lead_actions=0)
PUBLISHED = GeneratorOptions(overrun=False)


def _saliency(mode: str, **options: float | str | bool) -> MonitorOptions:
    return replace(STREAM, mode=mode, **options)  # type: ignore[arg-type]


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
    "synchronous_5": Setup("chunk, execute 5, observe when nothing is left", chunks=lambda layout: Synchronous(5)),
    "synchronous_10": Setup("chunk, execute 10, observe when nothing is left", chunks=lambda layout: Synchronous(10)),
    "temporal_ensembling": Setup(
        "ACT: a chunk before every action, averaged", chunks=lambda layout: TemporalEnsembling()
    ),
    "lerobot_weighted_average": Setup("LeRobot's queue, 0.3 old + 0.7 new", chunks=_Queue()),
    "lerobot_latest_only": Setup("LeRobot's queue, the newest action", chunks=_Queue("latest_only")),
    "lerobot_average": Setup("LeRobot's queue, the mean", chunks=_Queue("average")),
    "lerobot_conservative": Setup("LeRobot's queue, 0.7 old + 0.3 new", chunks=_Queue("conservative")),
    "lerobot_similarity": Setup("LeRobot's queue with its similarity filter (1 cm)", chunks=_Queue(), similarity=0.01),
    "rtc": Setup("real-time chunking, identity for the Jacobian", chunks=_Rtc()),
    "rtc_exact": Setup("real-time chunking, true Jacobian", chunks=_Rtc(exact=True)),
    "vlash": Setup("VLASH: the state after the pending actions", chunks=lambda layout: FutureState(layout, EXECUTE)),
    "chunk_naive_early": Setup("chunk, observe with 2 actions left", chunks=_HandOver("zero", overrun=False, early=2)),
    "chunk_from_m": Setup("chunk, observe early, new chunk from index m", chunks=_HandOver("elapsed")),
    "chunk_from_0": Setup("chunk, observe early, new chunk from index 0", chunks=_HandOver("zero")),
    "afm": Setup("action flow, observe when nothing is left", OFF, PUBLISHED),
    "afm_naive_early": Setup(
        "action flow, observe with 2 actions left", MonitorOptions(mode="always", early_actions=2), PUBLISHED
    ),
    "afm_aeo": Setup(
        "StreamingVLA: observe with 2 actions left where the predicted change is small",
        MonitorOptions(mode="adaptive", early_actions=2, observe_when="calm", last_chance=False),
        PUBLISHED,
    ),
    "ours": Setup("action flow, m as measured, overrun", STREAM, OVERRUN),
    "ours_adaptive": Setup("ours, observe where the predictor says so", _saliency("adaptive"), OVERRUN),
    "ours_random": Setup("ours, observe early at random", _saliency("random"), OVERRUN),
    "ours_action_norm": Setup("ours, observe when the arm has moved", _saliency("action_norm"), OVERRUN),
    "ours_from_episode": Setup("ours, sums from the start of the episode", STREAM, replace(OVERRUN, start="episode")),
    "ours_from_picture": Setup("ours, sums from the picture", STREAM, replace(OVERRUN, start="pending")),
}


def find_strategy(name: str) -> Setup:
    """Return the strategy `name`.

    Raises:
        ValueError: there is no such strategy; the message lists them.
    """
    if name not in STRATEGIES:
        raise ValueError(f"unknown strategy '{name}': choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
