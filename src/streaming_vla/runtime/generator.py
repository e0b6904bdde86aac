"""The generator's machine: turns contexts into a stream of actions, one flow step each."""

from __future__ import annotations

from dataclasses import dataclass

from streaming_vla.policy.layout import ActionLayout
from streaming_vla.runtime.counters import Counters
from streaming_vla.runtime.events import Action, ContextReady, Episode, ExecutionState, FlowReply, FlowRequest

GeneratorEffect = FlowRequest | Action


@dataclass(frozen=True)
class GeneratorOptions:
    release: str = "stream"
    overrun: bool = True
    lead_actions: int = 1
    flow_step_timeout_s: float = 1.0


class Generator:
    def __init__(self, layout: ActionLayout, options: GeneratorOptions) -> None:
        self.counters = Counters()

    def update(self, options: GeneratorOptions) -> None: ...
    def on_episode(self, episode: Episode, now: float) -> list[GeneratorEffect]: ...
    def on_context(self, context: ContextReady, now: float) -> list[GeneratorEffect]: ...
    def on_execution_state(self, state: ExecutionState, now: float) -> list[GeneratorEffect]: ...
    def on_flow_reply(self, reply: FlowReply, now: float) -> list[GeneratorEffect]: ...
    def poll(self, now: float) -> list[GeneratorEffect]: ...
    def deadline(self) -> float | None: ...
