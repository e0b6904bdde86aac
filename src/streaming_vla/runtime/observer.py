"""The observer's machine: keeps the newest frames and answers each request with one synchronised set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streaming_vla.runtime.counters import Counters
from streaming_vla.runtime.events import Episode, ObserveRequest, Snapshot, Vector


@dataclass(frozen=True)
class ObserverOptions:
    """How frames are put together; times in seconds of reception."""

    cameras: tuple[str, ...]
    max_skew_s: float = 0.1
    max_frame_age_s: float = 0.3
    frame_timeout_s: float = 1.0


class Observer:
    def __init__(self, options: ObserverOptions) -> None:
        self.counters = Counters()

    def update(self, options: ObserverOptions) -> None: ...
    def on_episode(self, episode: Episode, now: float) -> list[Snapshot]: ...
    def on_frame(self, camera: str, payload: Any, stamp_s: float, now: float) -> list[Snapshot]: ...
    def on_state(self, values: Vector, now: float) -> list[Snapshot]: ...
    def on_request(self, request: ObserveRequest, now: float) -> list[Snapshot]: ...
    def poll(self, now: float) -> list[Snapshot]: ...
    def deadline(self) -> float | None: ...
