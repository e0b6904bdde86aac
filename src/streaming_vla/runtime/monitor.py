"""The saliency monitor's machine: conducts episodes and decides when to observe, and why."""

from __future__ import annotations

from dataclasses import dataclass

from streaming_vla.runtime.counters import Counters
from streaming_vla.runtime.events import ContextReady, Episode, ExecutionState, ObserveRequest

MonitorEffect = Episode | ObserveRequest


@dataclass(frozen=True)
class MonitorOptions:
    mode: str = "always"
    early_actions: int = 0
    lead_actions: int = 1
    control_period_s: float = 0.05
    max_silence_s: float = 2.0
    request_timeout_s: float = 2.0
    warm_up_contexts: int = 2


class Monitor:
    def __init__(self, options: MonitorOptions, last_episode: int = 0) -> None:
        """`last_episode`: numbers of new episodes are above it (a respawned monitor must not reuse one)."""
        self.counters = Counters()

    @property
    def episode(self) -> Episode | None:
        """The newest episode that this monitor conducts, active or over; None before the first."""

    def update(self, options: MonitorOptions) -> None: ...
    def on_instruction(self, instruction: str, now: float) -> list[MonitorEffect]:
        """Newest text of the `instruction` topic; used by start_episode("") and by adoption."""

    def start_episode(self, now: float, instruction: str = "") -> list[MonitorEffect]:
        """[Episode, ObserveRequest(START)]; ValueError when no instruction is known."""

    def stop_episode(self, now: float) -> list[MonitorEffect]:
        """[Episode(active=False)], or nothing when none is active."""

    def on_execution_state(self, state: ExecutionState, now: float) -> list[MonitorEffect]: ...
    def on_context(self, context: ContextReady, now: float) -> list[MonitorEffect]: ...
    def poll(self, now: float) -> list[MonitorEffect]: ...
    def deadline(self) -> float | None: ...
