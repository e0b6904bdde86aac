"""Node `generator`: asks for actions ahead, hands over from context to context, and sends action by action."""

from __future__ import annotations

import sys
from functools import partial

from streaming_vla_interfaces import msg as wire

from streaming_vla.machines.events import Action, ContextReady, Episode, GeneratedAction, GenerateRequest
from streaming_vla.machines.generator import Generator, GeneratorEffect
from streaming_vla.machines.generator_options import GeneratorOptions
from streaming_vla.options.texts import cut
from streaming_vla.ros import messages
from streaming_vla.ros.base import reliable
from streaming_vla.ros.machine import MachineNode
from streaming_vla.ros.policy_mismatch import policy_mismatch
from streaming_vla.ros.robot_state import listen_to_robot_state
from streaming_vla.ros.spin import run

GRANTS_REMEMBERED = 512  # newest granted steps that have not come, for the timeline


class GeneratorNode(MachineNode[GeneratorOptions, Generator]):
    """Asks the model for actions; never sees a picture, never sends a command."""

    def __init__(self) -> None:
        super().__init__("generator", GeneratorOptions)
        self._granted_s: dict[tuple[int, int, int], float] = {}  # by context, revision and step
        self._came_s = 0.0  # the newest action
        self._sent = 0

    def configure(self) -> None:
        """Connect to the inference node, the robot's state and the executor."""
        self._layout = self.options.layout
        self._publisher = self.create_publisher(wire.Action, "action", reliable(50))
        self._requests = self.create_publisher(wire.GenerateRequest, "generate", reliable(50))
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
        self.listen(wire.GeneratedAction, "generated_action", self._generated_from, self._on_generated, reliable(50))
        listen_to_robot_state(self, self.options, partial(self.dispatch, Generator.on_robot_state))

    def make(self) -> Generator:
        """Begin without a context."""
        return Generator(self._layout, self.options)

    def activate(self) -> None:
        """Begin, before others if they let it."""
        super().activate()
        self._mismatch = ""
        if not self.raise_priority(self.options.realtime_priority):
            self.machine.own_lead.begin_without_priority()

    def on_episode(self, episode: Episode) -> None:
        """Drop what belongs to the episode before."""
        self._granted_s.clear()
        self.dispatch(Generator.on_episode, episode)

    def report(self) -> tuple[str, dict[str, object]]:
        """Say when the inference node is missing, or when its policy acts otherwise than this robot."""
        problem = "" if self._requests.get_subscription_count() else f"no node listens to '{self._requests.topic_name}'"
        return problem or self._mismatch, {"actions": self._sent, **self._figures()}

    def _figures(self) -> dict[str, object]:
        machine, latency = self.machine, self.machine.latency.summary()
        return {
            "actions_ahead": machine.actions_ahead,
            "lead_actions": machine.lead,
            "generate_p50_ms": 1e3 * latency.p50_s,
            "generate_p95_ms": 1e3 * latency.p95_s,
            "hand_overs": machine.hand_over.count,
            "hand_over_jump_mean": machine.hand_over.mean_jump,
            "hand_over_jump_max": machine.hand_over.largest_jump,
            **machine.counters.as_dict(),
        }

    def _context_from(self, message: wire.Context) -> ContextReady:
        self._mismatch = policy_mismatch(self.options, message)
        if self._mismatch:
            raise ValueError(self._mismatch)
        return messages.context_from(message)

    def execute(self, effects: list[GeneratorEffect]) -> None:
        """Send actions, ask for more."""
        for effect in effects:
            if isinstance(effect, Action):
                self._publisher.publish(messages.action_to(effect, self.session, self.stamp()))
                self._sent += 1
            else:
                self._ask(effect)

    def _ask(self, request: GenerateRequest) -> None:
        granted_s = self.now()
        self._requests.publish(messages.generate_to(request, self.session, self.stamp()))
        for step in range(request.step, request.until):
            self._granted_s.setdefault((request.context, request.revision, step), granted_s)
        while len(self._granted_s) > GRANTS_REMEMBERED:
            del self._granted_s[next(iter(self._granted_s))]

    def _generated_from(self, message: wire.GeneratedAction) -> GeneratedAction:
        self._came_s = self.now()
        return messages.generated_from(message)

    def _on_generated(self, action: GeneratedAction) -> None:
        if not action.accepted:
            self.refuse("generate_refused", f"actions of context {action.context} refused: {cut(action.reason)}")
        self.dispatch(Generator.on_generated, action)
        granted_s = self._granted_s.pop((action.context, action.revision, action.step), None)
        if granted_s is not None and action.accepted:  # last, so that the timeline costs no action its time
            self.span("generate", granted_s, self._came_s, action.episode, action.context, action.step)


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(GeneratorNode))


if __name__ == "__main__":
    main()
