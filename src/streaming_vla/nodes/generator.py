"""Node `generator`: turns each context into a stream of actions, one flow step each."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rclpy.task import Future
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.nodes import messages
from streaming_vla.nodes.base import SuiteNode, reliable
from streaming_vla.nodes.layout import action_layout
from streaming_vla.nodes.spin import run
from streaming_vla.parameters.spec import Value
from streaming_vla.runtime.events import Action, ContextReady, Episode, ExecutionState, FlowRequest, ObserveRequest
from streaming_vla.runtime.generator import Generator, GeneratorEffect, GeneratorOptions


class GeneratorNode(SuiteNode):
    """Asks the model for flow steps; never sees a picture, never sends a command."""

    def __init__(self) -> None:
        super().__init__("generator")
        self._machine: Generator | None = None
        self._waiting: tuple[FlowRequest, float, Future[Any]] | None = None
        self._sent = 0

    def configure(self) -> None:
        """Connect to the inference service, the contexts and the executor."""
        action_layout(self.values())
        self._options(self.values())
        self._publisher = self.create_publisher(wire.Action, "action", reliable(50))
        self._client = self.create_client(srv.FlowStep, "flow_step")
        self.listen_to_episode()
        self.listen(wire.ObserveRequest, "observe_request", messages.request_from, self._on_request, reliable(10))
        self.listen(wire.Context, "context", messages.context_from, self._on_context, reliable(10))
        self.listen(
            wire.ExecutionState,
            "execution_state",
            messages.execution_state_from,
            self._on_execution_state,
            reliable(50),
        )

    def activate(self) -> None:
        """Begin without a context."""
        self._machine = Generator(action_layout(self.values()), self._options(self.values()))
        self.raise_priority()

    def deactivate(self) -> None:
        """Send no further action."""
        self._machine = None
        self._forget_request()

    def update(self, values: Mapping[str, Value]) -> None:
        """Take new options at once."""
        options = self._options(values)
        if self._machine is not None:
            self._machine.update(options)

    def on_episode(self, episode: Episode) -> None:
        """Drop what belongs to the episode before."""
        if self._machine is not None:
            self._carry_out(self._machine.on_episode(episode, time.monotonic()))

    def deadline(self) -> float | None:
        """When an unanswered flow step is given up."""
        return self._machine.deadline() if self._machine is not None else None

    def tick(self) -> None:
        """Give up an unanswered flow step."""
        if self._machine is not None:
            self._carry_out(self._machine.poll(time.monotonic()))

    def report(self) -> tuple[str, dict[str, object]]:
        """Say when the inference service is missing."""
        problem = "" if self._client.service_is_ready() else f"no node offers '{self._client.srv_name}'"
        return problem, {"actions": self._sent, **self._figures()}

    def _figures(self) -> dict[str, object]:
        if self._machine is None:
            return {}
        machine, latency = self._machine, self._machine.flow_latency.summary()
        return {
            "lead_actions": machine.lead_actions,
            "flow_step_p50_ms": 1e3 * latency.p50_s,
            "flow_step_p95_ms": 1e3 * latency.p95_s,
            "hand_overs": machine.hand_over.count,
            "hand_over_jump_mean": machine.hand_over.mean_jump,
            "hand_over_jump_max": machine.hand_over.largest_jump,
            **machine.counters.as_dict(),
        }

    def _options(self, values: Mapping[str, Any]) -> GeneratorOptions:
        return GeneratorOptions(
            release=values["release"],
            overrun=values["overrun"],
            lead_actions=values["lead_actions"],
            flow_step_timeout_s=values["flow_step_timeout_s"],
            control_period_s=values["control_period_s"],
            start=values["hand_over_start"],
            jump=values["hand_over_jump"],
        )

    def _on_request(self, request: ObserveRequest) -> None:
        if self._machine is not None:
            self._carry_out(self._machine.on_request(request, time.monotonic()))

    def _on_context(self, context: ContextReady) -> None:
        if self._machine is not None:
            self._carry_out(self._machine.on_context(context, time.monotonic()))

    def _on_execution_state(self, state: ExecutionState) -> None:
        if self._machine is not None:
            self._carry_out(self._machine.on_execution_state(state, time.monotonic()))

    def _carry_out(self, effects: list[GeneratorEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Action):
                self._publisher.publish(messages.action_to(effect, self.session, self.stamp()))
                self._sent += 1
            else:
                self._ask(effect)

    def _ask(self, request: FlowRequest) -> None:
        self._forget_request()
        asked_s = time.monotonic()
        answer = self._client.call_async(messages.flow_request_to(request, self.session))
        self._waiting = (request, asked_s, answer)

    def _forget_request(self) -> None:
        if self._waiting is not None:
            self._client.remove_pending_request(self._waiting[2])
        self._waiting = None

    def settle(self) -> None:
        """Send the action that a flow step has brought."""
        if self._waiting is None or not self._waiting[2].done():
            return
        (request, asked_s, answered), self._waiting = self._waiting, None
        answered_s = time.monotonic()
        response = answered.result()
        if self._machine is None or response is None:
            return
        reply = messages.flow_reply_from(request, response)
        if not reply.accepted:
            self.refuse("flow_step_refused", f"flow step {request.index} refused: {reply.reason}")
        self._carry_out(self._machine.on_flow_reply(reply, answered_s))
        # last, so that the timeline costs no action its time
        self.span("generate", asked_s, answered_s, request.episode, request.context, request.index)


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(GeneratorNode))


if __name__ == "__main__":
    main()
