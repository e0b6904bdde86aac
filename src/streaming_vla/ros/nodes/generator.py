"""Node `generator`: turns each context into a stream of actions, one flow step each."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.machines.events import Action, ContextReady, Episode, FlowRequest
from streaming_vla.machines.generator import Generator, GeneratorEffect, GeneratorOptions
from streaming_vla.ros import messages
from streaming_vla.ros.base import reliable
from streaming_vla.ros.layout import action_layout, foreign_layout
from streaming_vla.ros.machine import MachineNode
from streaming_vla.ros.question import Asking
from streaming_vla.ros.spin import run


class GeneratorNode(MachineNode[Generator]):
    """Asks the model for flow steps; never sees a picture, never sends a command."""

    def __init__(self) -> None:
        super().__init__("generator")
        self._steps: Asking[tuple[FlowRequest, float]] = Asking()
        self._sent = 0

    def configure(self) -> None:
        """Connect to the inference service, the contexts and the executor."""
        self._layout = action_layout(self.values())
        self.options(self.values())
        self._publisher = self.create_publisher(wire.Action, "action", reliable(50))
        self._client = self.create_client(srv.FlowStep, "flow_step")
        self.listen_to_episode()
        self.listen(
            wire.ObserveRequest,
            "observe_request",
            messages.request_from,
            self.feeding(Generator.on_request),
            reliable(10),
        )
        self.listen(wire.Context, "context", self._context_from, self.feeding(Generator.on_context), reliable(10))
        self.listen(
            wire.ExecutionState,
            "execution_state",
            messages.execution_state_from,
            self.feeding(Generator.on_execution_state),
            reliable(50),
        )

    def make(self) -> Generator:
        """Begin without a context."""
        return Generator(self._layout, self.options(self.values()))

    def activate(self) -> None:
        """Begin, before others if they let it."""
        super().activate()
        self._foreign = ""
        self.raise_priority()

    def deactivate(self) -> None:
        """Send no further action."""
        super().deactivate()
        self._steps.forget()

    def on_episode(self, episode: Episode) -> None:
        """Drop what belongs to the episode before."""
        self.feed(Generator.on_episode, episode)

    def report(self) -> tuple[str, dict[str, object]]:
        """Say when the inference service is missing, or when its policy acts in another layout."""
        problem = "" if self._client.service_is_ready() else f"no node offers '{self._client.srv_name}'"
        return problem or self._foreign, {"actions": self._sent, **self._figures()}

    def _figures(self) -> dict[str, object]:
        if self.machine is None:
            return {}
        machine, latency = self.machine, self.machine.flow_latency.summary()
        return {
            "lead_actions": machine.lead_actions,
            "flow_step_p50_ms": 1e3 * latency.p50_s,
            "flow_step_p95_ms": 1e3 * latency.p95_s,
            "hand_overs": machine.hand_over.count,
            "hand_over_jump_mean": machine.hand_over.mean_jump,
            "hand_over_jump_max": machine.hand_over.largest_jump,
            **machine.counters.as_dict(),
        }

    def options(self, values: Mapping[str, Any]) -> GeneratorOptions:
        """Return the options of the generator."""
        return GeneratorOptions(
            release=values["release"],
            overrun=values["overrun"],
            lead_actions=values["lead_actions"],
            flow_step_timeout_s=values["flow_step_timeout_s"],
            control_period_s=values["control_period_s"],
            start=values["hand_over_start"],
            trained_delay=values["trained_delay"],
            jump=values["hand_over_jump"],
            max_context_age_s=values["max_context_age_s"],
        )

    def _context_from(self, message: wire.Context) -> ContextReady:
        self._foreign = foreign_layout(self._layout, message)
        if self._foreign:
            raise ValueError(self._foreign)
        return messages.context_from(message)

    def carry_out(self, effects: list[GeneratorEffect]) -> None:
        """Send actions, ask for flow steps."""
        for effect in effects:
            if isinstance(effect, Action):
                self._publisher.publish(messages.action_to(effect, self.session, self.stamp()))
                self._sent += 1
            else:
                self._ask(effect)

    def _ask(self, request: FlowRequest) -> None:
        self._steps.ask(self._client, (request, time.monotonic()), messages.flow_request_to(request, self.session))

    def settle(self) -> None:
        """Send the action that a flow step has brought."""
        answer = self._steps.answer()
        if answer is None or self.machine is None:
            return
        ((request, asked_s), response), answered_s = answer, time.monotonic()
        reply = messages.flow_reply_from(request, response)
        if not reply.accepted:
            self.refuse("flow_step_refused", f"flow step {request.index} refused: {reply.reason}")
        self.carry_out(self.machine.on_flow_reply(reply, answered_s))
        # last, so that the timeline costs no action its time
        self.span("generate", asked_s, answered_s, request.episode, request.context, request.index)


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(GeneratorNode))


if __name__ == "__main__":
    main()
