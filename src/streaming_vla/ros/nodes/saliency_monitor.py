"""Node `saliency_monitor`: conducts episodes and decides when the observer publishes, and why."""

from __future__ import annotations

import sys
import time

from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.machines.away import Away
from streaming_vla.machines.events import (
    ContextReady,
    Episode,
    ExecutionState,
    NodesAway,
    SaliencyQuestion,
    SaliencyReply,
)
from streaming_vla.machines.monitor import Monitor, MonitorEffect
from streaming_vla.machines.monitor_options import MonitorOptions
from streaming_vla.machines.stops import Said
from streaming_vla.options.texts import cut
from streaming_vla.ros import messages
from streaming_vla.ros.base import AWAY, LATCHED, reliable
from streaming_vla.ros.instruction_server import InstructionServer
from streaming_vla.ros.machine import MachineNode
from streaming_vla.ros.question import Asking
from streaming_vla.ros.spin import run
from streaming_vla.ros.topics import AWAY_TOPIC

NUMBERS_SINCE_S = 1_700_000_000  # episode numbers of a restarted monitor go on from the clock, so none comes twice

SETTLE_S = 5.0  # after activation; a latched message has come by then

NO_SERVICE = "no node offers 'predict_saliency'"


class SaliencyMonitorNode(MachineNode[MonitorOptions, Monitor]):
    """Never starves the pipeline: start, empty queue and longest silence always observe."""

    def __init__(self) -> None:
        super().__init__("saliency_monitor", MonitorOptions)
        self._asked_s: dict[int, float] = {}
        self._questions: Asking[SaliencyQuestion] = Asking()
        self._goals: InstructionServer | None = None

    def configure(self) -> None:
        """Connect to the observer, the contexts, the executor and the operator."""
        self._episodes = self.create_publisher(wire.Episode, "episode", LATCHED)
        self._requests = self.create_publisher(wire.ObserveRequest, "observe_request", reliable(10))
        self.listen(wire.Context, "context", messages.context_from, self._on_context, reliable(10))
        self.listen(
            wire.ExecutionState,
            "execution_state",
            messages.execution_state_from,
            self._on_execution_state,
            reliable(50),
        )
        self.listen(wire.NodesAway, AWAY_TOPIC, messages.nodes_away_from, self._on_nodes_away, AWAY)
        self._predictor = self.create_client(srv.PredictSaliency, "predict_saliency")
        self.create_subscription(String, "instruction", self._on_instruction, LATCHED)
        self.serve(srv.StartEpisode, "start_episode", self._on_start)
        self.serve(Trigger, "stop_episode", self._on_stop)
        # not latched: a success that was there before a goal is that of another
        self.listen(Bool, self.options.success_topic, lambda message: message.data, self._on_success, reliable(10))
        self._goals = InstructionServer(self, self, lambda: self.count_publishers(self.options.success_topic) > 0)
        self._instruction = ""

    def make(self) -> Monitor:
        """Begin without an episode."""
        # the newest number that is known may be above the clock's, which may have been set back
        known = self.episode.number if self.episode is not None else 0
        ended = known if self.episode is not None and not self.episode.active else 0
        return Monitor(self.options, last_episode=max(known, int(time.time()) - NUMBERS_SINCE_S), ended=ended)

    def activate(self) -> None:
        """Listen whether an episode runs already: a monitor before this one may have begun it."""
        super().activate()
        self._asked_s.clear()
        self._away = Away()
        self._executor_heard = self._stop_adopted = False
        self._before: str | None = None  # instruction of the episode that ran, or had ended, when this node began
        self._postponed, self._postponed_old, self._postponed_first = "", False, False
        self._since_s = self.now()
        self._first = True
        if self._instruction:
            self._instruct(self._instruction)

    def deactivate(self) -> None:
        """End the episode: the executor holds."""
        self._goal_server.abandon("the saliency monitor was deactivated")
        self.dispatch(Monitor.stop_episode)
        self._questions.forget()

    def cleanup(self) -> None:
        """Offer the action no more."""
        if self._goals is not None:
            self._goals.close()
        self._goals = None

    def deadline(self) -> float | None:
        """When the episode or its goal has something to do."""
        due = [each for each in (super().deadline(), self._goal_server.deadline() if self.active else None) if each]
        return min(due, default=None)

    def tick(self) -> None:
        """Let episode and goal do what is due."""
        super().tick()
        self._goal_server.poll()

    def report(self) -> tuple[str, dict[str, object]]:
        """Requests by reason, and how long a context takes."""
        latency = self.machine.request_latency.summary()
        figures = {"request_p50_ms": 1e3 * latency.p50_s, "request_p95_ms": 1e3 * latency.p95_s}
        return "", {**figures, **self.machine.counters.as_dict()}

    def _on_nodes_away(self, told: NodesAway) -> None:
        if self._away.hear(told):
            self.dispatch(Monitor.on_nodes_back)

    def _on_context(self, context: ContextReady) -> None:
        now = self.now()
        self.dispatch(Monitor.on_context, context)
        ours = self.episode is not None and context.episode == self.episode.number
        asked_s = self._asked_s.pop(context.sequence, None) if ours else None
        if asked_s is not None:
            self.span("request", asked_s, now, context.episode, context.sequence)

    @property
    def _goal_server(self) -> InstructionServer:
        assert self._goals is not None, "there from configuration to clean-up"
        return self._goals

    def goal_problem(self) -> str:
        """Return why no goal can begin now, empty when one can."""
        if not self.active:
            return "saliency_monitor is not active: activate it first"
        if self.episode is not None and self.episode.active:
            return f"episode {self.episode.number} runs: call stop_episode first"
        return ""

    def begin_episode(self, instruction: str) -> int:
        """Begin an episode and return its number; ValueError when none can begin."""
        effects = self.machine.start_episode(self.now(), instruction)
        self._postponed = ""
        self.execute(effects)
        return self.episode.number if self.episode else 0

    def end_episode(self) -> None:
        """End the episode."""
        self.dispatch(Monitor.stop_episode)

    def _on_success(self, success: bool) -> None:
        if success:
            self._goal_server.on_success()

    def _on_execution_state(self, state: ExecutionState) -> None:
        conducted = self.machine.episode
        self.dispatch(Monitor.on_execution_state, state)
        episode = self.machine.episode
        adopted = conducted is None and episode is not None
        if adopted:
            self.get_logger().info(f"goes on with episode {state.episode}")
            if self._stop_adopted:
                self.dispatch(Monitor.stop_episode)
        if adopted or not self._executor_heard:
            self._before = state.instruction if state.episode > 0 else None
        self._executor_heard, self._stop_adopted = True, False
        self._begin_postponed()
        self._goal_server.on_state(state)

    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data
        if self.active:
            self._instruct(message.data)

    def _instruct(self, instruction: str) -> None:
        """Take an instruction; the first one since activation may be older, for the topic is latched."""
        first, self._first = self._first, False
        self.machine.on_instruction(instruction)
        if not self.options.auto_start or not instruction.strip():
            return
        self._postponed, self._postponed_first = instruction, first
        self._postponed_old = first and self.now() < self._since_s + SETTLE_S
        if self._executor_heard:  # before that nobody knows whether an episode runs
            self._begin_postponed()

    def _begin_postponed(self) -> None:
        instruction, self._postponed = self._postponed, ""
        if not instruction:
            return
        # an old instruction is that of the episode that goes on, or of one that was stopped or has failed
        old = self._postponed_old or (self._postponed_first and instruction == self._before)
        if self._before is None or not old:
            self.execute(self.machine.start_episode(self.now(), instruction))
        elif self.machine.episode is None:
            self.get_logger().warning(
                f"'{cut(instruction)}' was there before this node, and an episode has ended: it is not begun again, "
                "call start_episode or publish the instruction again"
            )

    def _on_start(self, request: srv.StartEpisode.Request, response: srv.StartEpisode.Response) -> None:
        try:
            response.episode = self.begin_episode(request.instruction)
        except ValueError as error:
            response.reason = str(error)
            return
        response.accepted = True

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> None:
        effects = self.machine.stop_episode(self.now())
        self._postponed = ""
        # before the executor was heard one may run that a monitor before this one has begun
        self._stop_adopted = not effects and not self._executor_heard
        response.success = bool(effects) or self._stop_adopted
        known = "the episode has ended" if effects else "no episode is active"
        response.message = "an episode that runs ends when the executor is heard" if self._stop_adopted else known
        self.execute(effects)

    def execute(self, effects: list[MonitorEffect]) -> None:
        """Publish episodes and requests, ask the predictor."""
        for effect in effects:
            if isinstance(effect, Episode):
                if self.episode is None or effect.number != self.episode.number:
                    self._asked_s.clear()
                self.episode = effect
                self._episodes.publish(messages.episode_to(effect, self.session, self.stamp()))
                what = "ended" if not effect.active else "stopped" if effect.stopped else "begun"
                self.get_logger().info(f"episode {effect.number} {what}: '{cut(effect.instruction)}'")
                self._goal_server.on_episode(effect)
            elif isinstance(effect, Said):
                self.say(effect)
            elif isinstance(effect, SaliencyQuestion):
                self._ask(effect)
            else:
                self._requests.publish(messages.request_to(effect, self.session, self.stamp()))
                self._asked_s[effect.sequence] = self.now()
                self._goal_server.on_request(effect.sequence)

    def _ask(self, question: SaliencyQuestion) -> None:
        if self._predictor.service_is_ready():
            self._questions.ask(self._predictor, question, messages.saliency_question_to(question, self.session))
        else:
            self._questions.forget()
            self._answer(SaliencyReply(question.episode, question.context, question.index, False, float("nan")))

    def _answer(self, reply: SaliencyReply) -> None:
        if not reply.accepted:
            self.refuse(
                "saliency_refused", f"no saliency, so the observation is sent: {cut(reply.reason) or NO_SERVICE}"
            )
        self.dispatch(Monitor.on_saliency, reply)

    def handle_responses(self) -> None:
        """Take up what the predictor has answered."""
        answer = self._questions.answer()
        if answer is not None:
            self._answer(messages.saliency_reply_from(*answer))


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(SaliencyMonitorNode))


if __name__ == "__main__":
    main()
