"""The executor's machine: plays actions at the control rate and holds when starved."""

from __future__ import annotations

from dataclasses import dataclass

from streaming_vla.policy.layout import ActionLayout
from streaming_vla.runtime.counters import Counters
from streaming_vla.runtime.events import Action, Command, Episode, ExecutionState
from streaming_vla.runtime.limits import Limits

ExecutorEffect = Command | ExecutionState


@dataclass(frozen=True)
class ExecutorOptions:
    control_period_s: float = 0.05
    limits: Limits = Limits()
    hold_s: float = 1.0
    decelerate_s: float = 1.0
    max_action_age_s: float = 1.0
    robot_timeout_s: float = 0.5
    start_actions: int = 1


class Executor:
    def __init__(self, layout: ActionLayout, options: ExecutorOptions) -> None:
        self.counters = Counters()

    def update(self, options: ExecutorOptions) -> None: ...
    def on_episode(self, episode: Episode, now: float) -> list[ExecutorEffect]: ...
    def on_action(self, action: Action, now: float) -> list[ExecutorEffect]: ...
    def on_robot_state(self, now: float) -> list[ExecutorEffect]: ...
    def poll(self, now: float) -> list[ExecutorEffect]: ...
    def stop(self, now: float) -> list[ExecutorEffect]: ...
    def deadline(self) -> float | None: ...
    def state(self, now: float) -> ExecutionState: ...
