"""What is kept of an episode, as plain values.

All times are seconds of one clock. On one machine the stamps of different processes share the system clock, so they
may be compared; records of several machines must not be mixed in one episode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.machines.events import ExecutionState, Reason


@dataclass(frozen=True)
class Scene:
    """What an episode is about: a task and the seed that places its objects."""

    task: str
    seed: int


@dataclass(frozen=True)
class Span:
    """A piece of work of one node; `index` is -1 where no action is meant."""

    node: str
    stage: str
    begin_s: float
    end_s: float
    sequence: int
    index: int = -1

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.begin_s


@dataclass(frozen=True)
class StateAt:
    """What the executor said at `time_s` (its own stamp)."""

    time_s: float
    state: ExecutionState


@dataclass(frozen=True)
class RequestAt:
    """An observation was asked for at `time_s`."""

    time_s: float
    sequence: int
    reason: Reason


@dataclass(frozen=True)
class ObservationAt:
    """An observation was sent; `time_s` is when its newest picture was taken, `image_bytes` of all pictures."""

    time_s: float
    sequence: int
    reason: Reason
    image_bytes: int
    skew_s: float


@dataclass(frozen=True)
class ContextAt:
    """A prefill was done at `time_s`; `tokens` are attended to."""

    time_s: float
    sequence: int
    tokens: int
    prefill_s: float
    queued_s: float


@dataclass(frozen=True)
class CacheAt:
    """The KV cache at `time_s`, when an observation was in it; the names are those of KvCacheStats.msg.

    Args:
        held: numbers of the chunks that are held as summaries; None where nobody tells.
    """

    time_s: float
    sequence: int
    policy: str
    tokens: int
    bytes: int
    full_tokens: int
    full_bytes: int
    chunks_kept: int
    chunks_dropped: int
    chunks_evicted: int
    scores: tuple[float, ...]
    held: tuple[int, ...] | None = None

    @classmethod
    def of(cls, stats: Any, time_s: float, sequence: int, held: tuple[int, ...] | None = None) -> CacheAt:
        """Return what CacheStats or KvCacheStats.msg say."""
        return cls(
            time_s, sequence, stats.policy, stats.tokens, stats.bytes, stats.full_tokens, stats.full_bytes,
            stats.chunks_kept, stats.chunks_dropped, stats.chunks_evicted, tuple(stats.scores), held,
        )  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """A camera picture, [H, W, 3] uint8 RGB, taken at `time_s`."""

    time_s: float
    camera: str
    picture: npt.NDArray[np.uint8]


@dataclass
class EpisodeRecord:
    """One episode from its start to success or to the time limit."""

    mode: str  # synchronous or streaming
    task: str
    seed: int
    instruction: str
    number: int
    control_period_s: float
    begin_s: float
    end_s: float = float("nan")
    success: bool = False
    pace: float = float("nan")  # of simulated in real time, 1 where the machine keeps up; nan: no simulation
    problem: str = ""  # one sentence when something other than success or the time limit ended it
    states: list[StateAt] = field(default_factory=list)
    requests: list[RequestAt] = field(default_factory=list)
    observations: list[ObservationAt] = field(default_factory=list)
    contexts: list[ContextAt] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    cache: list[CacheAt] = field(default_factory=list)  # after each prefill
    pictures: dict[int, bytes] = field(default_factory=dict)  # JPEG of the first camera, by observation
    counters: dict[str, dict[str, int]] = field(default_factory=dict)  # per node, counted in this episode

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the episode to its end."""
        return self.end_s - self.begin_s
