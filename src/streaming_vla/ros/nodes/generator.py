"""Node `generator`: turns each context into a stream of actions, one flow step each."""

from __future__ import annotations

import sys
import time
from functools import partial

from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.machines.events import Action, ContextReady, Episode, FlowRequest
from streaming_vla.machines.generator import Generator, GeneratorEffect
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.ros import messages
from streaming_vla.ros.base import reliable
from streaming_vla.ros.machine import MachineNode
from streaming_vla.ros.question import Asking
from streaming_vla.ros.spin import run


class GeneratorNode(MachineNode[GeneratorOptions, Generator]):
    """Asks the model for flow steps; never sees a picture, never sends a command."""

    def __init__(self) -> None:
        super().__init__("generator", GeneratorOptions)
        self._steps: Asking[tuple[FlowRequest, float]] = Asking()
        self._sent = 0

    def configure(self) -> None:
        """Connect to the inference service, the contexts and the executor."""
        self._layout = self.options.layout
        self._publisher = self.create_publisher(wire.Action, "action", reliable(50))
        self._client = self.create_client(srv.FlowStep, "flow_step")
        self.listen_to_episode()
        self.listen(
            wire.ObserveRequest,
            "observe_request",
            messages.request_from,
            partial(self.dispatch, Generator.on_request),
            reliable(10),
        )
        on_context = partial(self.dispatch, Generator.on_context)
        self.listen(wire.Context, "context", self._context_from, on_context, reliable(10))
        self.listen(
            wire.ExecutionState,
            "execution_state",
            messages.execution_state_from,
            partial(self.dispatch, Generator.on_execution_state),
            reliable(50),
        )

    def make(self) -> Generator:
        """Begin without a context."""
        return Generator(self._layout, self.options)

    def activate(self) -> None:
        """Begin, before others if they let it."""
        super().activate()
        self._mismatch = ""
        self.raise_priority(self.options.realtime_priority)

    def deactivate(self) -> None:
        """Send no further action."""
        super().deactivate()
        self._steps.forget()

    def on_episode(self, episode: Episode) -> None:
        """Drop what belongs to the episode before."""
        self.dispatch(Generator.on_episode, episode)

    def report(self) -> tuple[str, dict[str, object]]:
        """Say when the inference service is missing, or when its policy acts in another layout."""
        problem = "" if self._client.service_is_ready() else f"no node offers '{self._client.srv_name}'"
        return problem or self._mismatch, {"actions": self._sent, **self._figures()}

    def _figures(self) -> dict[str, object]:
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

    def _context_from(self, message: wire.Context) -> ContextReady:
        self._mismatch = messages.layout_mismatch(self._layout, message)
        if self._mismatch:
            raise ValueError(self._mismatch)
        return messages.context_from(message)

    def execute(self, effects: list[GeneratorEffect]) -> None:
        """Send actions, ask for flow steps."""
        for effect in effects:
            if isinstance(effect, Action):
                self._publisher.publish(messages.action_to(effect, self.session, self.stamp()))
                self._sent += 1
            else:
                self._ask(effect)

    def _ask(self, request: FlowRequest) -> None:
        self._steps.ask(self._client, (request, time.monotonic()), messages.flow_request_to(request, self.session))

    def handle_responses(self) -> None:
        """Send the action that a flow step has brought."""
        answer = self._steps.answer()
        if answer is None:
            return
        ((request, asked_s), response), answered_s = answer, time.monotonic()
        reply = messages.flow_reply_from(request, response)
        if not reply.accepted:
            self.refuse("flow_step_refused", f"flow step {request.index} refused: {reply.reason}")
        self.execute(self.machine.on_flow_reply(reply, answered_s))
        # last, so that the timeline costs no action its time
        self.span("generate", asked_s, answered_s, request.episode, request.context, request.index)


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(GeneratorNode))


if __name__ == "__main__":
    main()
