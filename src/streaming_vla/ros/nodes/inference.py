"""Node `inference`: the shared KV service. One model, one session per robot, all model work on the engine's thread."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import torch
from rclpy.publisher import Publisher
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.engine.cache import EngineOptions
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.loading import fitted, load_model, warm_up
from streaming_vla.engine.options import InferenceOptions
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.sessions import check_fit
from streaming_vla.engine.thread import EngineThread
from streaming_vla.engine.values import ContextReport, EncodedObservation, Refusal, Reply
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.options.texts import cut
from streaming_vla.policies.contract import reported_figures
from streaming_vla.ros import messages
from streaming_vla.ros.base import SuiteNode, reliable
from streaming_vla.ros.late_service import serve_late
from streaming_vla.ros.side_node import SideNode
from streaming_vla.ros.spin import run
from streaming_vla.ros.topics import check_sessions, resolved_session

LONGEST_ANSWER_S = 2.0
NO_ANSWER = f"the model has not answered for {LONGEST_ANSWER_S:g} s: restart this node"
SAID_FOR_S = 10.0  # in the diagnostics
INACTIVE = "inference is not active: activate it first"


@dataclass(frozen=True)
class _Asked:
    """A request of a service that waits for the engine.

    Args:
        fill: returns the response with what the engine has answered.
    """

    since_s: float
    response: Any
    fill: Callable[[Any, Any], Any]
    done: Future[Any]


class InferenceNode(SuiteNode[InferenceOptions]):
    """Carries observations and requests to the engine; knows nothing of schedules."""

    def __init__(self) -> None:
        super().__init__("inference", InferenceOptions)
        self._engine_options: EngineOptions | None = None
        self._thread: EngineThread | None = None
        self._side: SideNode | None = None
        self._actions: dict[str, Publisher[Any]] = {}
        self._contexts: dict[str, Publisher[Any]] = {}
        self._statistics: dict[str, Publisher[Any]] = {}
        self._number = 0  # of the newest request of a service
        # the oldest first; taking one out, which either thread may do, decides who answers it
        self._asked: dict[int, _Asked] = {}
        self._unanswered_s = -math.inf
        self._hangs = False
        self._late: dict[str, str] = {}  # sessions whose history lacks what the episode has seen, in a sentence

    def configure(self) -> None:
        """Load the model and connect to every robot of parameter `sessions`."""
        # the cores belong to the control loop: one thread here, and none that spin beside it
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        options = self.options
        begun_s = time.monotonic()
        self._policy = load_model(options)
        self.get_logger().info(f"model '{self._policy.spec.name}' loaded in {time.monotonic() - begun_s:.1f} s")
        self._engine_options, warnings = fitted(options, self._policy)
        warm_up(self._policy, self._engine_options)
        for sentence in warnings:
            self.get_logger().warning(sentence)
        name = options.latency_profile
        self._profile = find_profile(name) if name else None
        names = [resolved_session(name, self.session) for name in options.sessions]
        check_sessions(names, options.max_sessions)
        self._side = SideNode(self, len(names))
        for name in names:
            self._connect(name, self._side)

    def update(self, options: InferenceOptions) -> None:
        """Take a new budget or threshold of the cache; open sessions go on with it."""
        if self._engine_options is None:  # not configured yet: `configure` will check it
            return
        engine = self._engine_options.retuned(options)
        try:
            check_fit(self._policy.spec, engine)
            if self._thread is not None:
                self._thread.engine.retune(engine)
        except MemoryError as error:
            raise ValueError(str(error)) from error
        self._engine_options = engine

    def activate(self) -> None:
        """Begin with empty sessions."""
        assert self._engine_options is not None, "a node is configured before it is activated"
        profile = self._profile
        if profile is not None:
            self.get_logger().warning(
                f"latency profile '{profile.name}' is on, answers are held back: {profile.description}"
            )
        engine = Engine(self._policy, self._engine_options, pace=None if profile is None else ProfilePace(profile))
        self._thread = EngineThread(engine, self._send, time.monotonic, profile, waiting=self._side)
        self._thread.start()
        self.raise_priority(self.options.realtime_priority)

    def deactivate(self) -> None:
        """Refuse what waits and end the engine's thread; one that hangs in the model is left behind."""
        thread, self._thread = self._thread, None
        if thread is not None and not thread.close(LONGEST_ANSWER_S):
            self.get_logger().error(NO_ANSWER)

    def cleanup(self) -> None:
        """Take the requests' node out of the graph."""
        if self._side is not None:
            self._side.close()
        self._side = None

    def report(self) -> tuple[str, dict[str, object]]:
        """What the engine answered, by code."""
        predictor = "no" if getattr(self._policy, "predictor", None) is None else "yes"
        figures: dict[str, object] = {"model": self._policy.spec.name, "saliency_predictor": predictor}
        figures |= reported_figures(self._policy)
        if self._thread is None:
            return "", figures
        engine, now = self._thread.engine, time.monotonic()
        figures |= engine.counts()
        if self._thread.failed:
            figures["not_sent"] = self._thread.failed
        if self._profile is not None:
            figures |= {"latency_profile": self._profile.name, "later_than_profile": engine.later_than_paced}
        hangs = now > engine.working_since() + LONGEST_ANSWER_S
        if hangs and not self._hangs:
            self.get_logger().error(NO_ANSWER)
        self._hangs = hangs
        late = list(self._late.values())  # a copy: the engine's thread writes it
        figures["late_histories"] = len(late)
        return NO_ANSWER if hangs or now < self._unanswered_s + SAID_FOR_S else "; ".join(late), figures

    def now(self) -> float:
        """Return monotonic seconds, whatever clock is published: the model computes in real time."""
        return time.monotonic()

    def deadline(self) -> float | None:
        """When the oldest request that is awaited has waited long enough."""
        waiting = [asked.since_s for asked in list(self._asked.values())]  # a copy: the engine's thread takes out
        return min(waiting) + LONGEST_ANSWER_S if waiting else None

    def tick(self) -> None:
        """Give up requests that the model has not answered."""
        now = time.monotonic()
        for number, asked in list(self._asked.items()):
            if now >= asked.since_s + LONGEST_ANSWER_S and self._asked.pop(number, None) is not None:
                self.refusals["no_answer"] += 1
                self._unanswered_s = now
                asked.response.reason = NO_ANSWER
                asked.done.set_result(asked.response)

    def _connect(self, session: str, side: SideNode) -> None:
        prefix = session.rstrip("/")
        convert = partial(messages.observation_from, cameras=self._policy.spec.cameras)
        self._actions[session] = self.create_publisher(wire.GeneratedAction, f"{prefix}/generated_action", reliable(50))
        self._contexts[session] = self.create_publisher(wire.Context, f"{prefix}/context", reliable(10))
        self._statistics[session] = self.create_publisher(wire.KvCacheStats, f"{prefix}/kv_cache_stats", reliable(10))
        self.listen(wire.Observation, f"{prefix}/observation", convert, self._on_observation, reliable(4), session)

        def on_generate(request: GenerateRequest) -> None:
            side.hear()
            if self._thread is not None:
                self._thread.submit(partial(self._thread.engine.generate, session, request), f"{session} generate")

        topic, convert_request = f"{prefix}/generate", messages.generate_from
        self.listen(wire.GenerateRequest, topic, convert_request, on_generate, reliable(50), session, side.node)
        for kind, name, callback in (
            (srv.PredictSaliency, "predict_saliency", self._on_predict_saliency),
            (srv.ResetSession, "reset_session", self._on_reset_session),
        ):
            serve_late(self, kind, f"{prefix}/{name}", callback)

    def _on_observation(self, observation: EncodedObservation) -> None:
        if self._thread is not None:
            self._thread.submit(partial(self._thread.engine.observe, observation), observation.session + " observation")

    def _send(self, reply: Reply) -> None:
        """Publish what the engine has done, what others wait for first; called on its thread."""
        value, session = reply.value, reply.session
        if isinstance(value, GeneratedAction):
            self._actions[session].publish(messages.generated_to(value, session, self.stamp(reply.done_s)))
            self._later(self._say_generated, reply, value)
        elif isinstance(value, ContextReport):
            spec = self._policy.spec
            context = messages.context_to(value, spec.layout, spec.control_period_s, self.stamp(reply.done_s))
            self._contexts[session].publish(context)
            self._later(self._say_prefilled, reply, value)
        elif isinstance(value, Refusal):
            self.get_logger().warning(f"observation refused: {cut(value.reason)}", throttle_duration_sec=1.0)
        elif reply.request is not None:
            self._answer(reply.request, value)

    def _later(self, say: Callable[..., None], *arguments: Any) -> None:
        """Let what nobody waits for cost no action its time."""
        if self._thread is not None:
            self._thread.later(partial(say, *arguments))

    def _say_generated(self, reply: Reply, action: GeneratedAction) -> None:
        if not action.accepted:
            self.get_logger().warning(f"actions refused: {cut(action.reason)}", throttle_duration_sec=1.0)
        elif not self._policy.spec.chunk:  # of a chunk it was done with the context
            begin_s = reply.done_s - action.compute_s
            self.span("flow_step", begin_s, reply.done_s, action.episode, action.context, action.step)

    def _say_prefilled(self, reply: Reply, report: ContextReport) -> None:
        self._note_history(report)
        self._statistics[reply.session].publish(messages.cache_stats_to(report, self.stamp(reply.done_s)))
        denoised_s = reply.done_s - report.denoise_s
        begin_s = reply.done_s - report.prefill_s - report.queued_s
        self.span("prefill", begin_s, denoised_s, report.episode, report.sequence)
        if report.chunk:
            self.span("flow_step", denoised_s, reply.done_s, report.episode, report.sequence)

    def _note_history(self, report: ContextReport) -> None:
        """Say of a history that it does not begin with its episode: this node was started, or reset, in it."""
        if not report.history_from:
            self._late.pop(report.session, None)
            return
        sentence = (
            f"the history of {report.session} begins at observation {report.history_from} of episode {report.episode}: "
            "what was seen before is not in it"
        )
        if self._late.get(report.session) != sentence:
            self._late[report.session] = sentence
            self.get_logger().warning(sentence)

    def _on_predict_saliency(self, request: srv.PredictSaliency.Request, response: srv.PredictSaliency.Response) -> Any:
        question = messages.saliency_question_from(request)
        return self._ask(
            response,
            messages.saliency_reply_to,
            lambda engine, number: engine.predict_saliency(request.session, question, number),
        )

    def _on_reset_session(self, request: srv.ResetSession.Request, response: srv.ResetSession.Response) -> Any:
        if request.session not in self._contexts:  # it would take the cache of a robot that is served
            response.reason = (
                f"session '{cut(request.session)}' is not served here: expected {' or '.join(self._contexts)}"
            )
            self.refuse("session_not_served", response.reason)
            return response
        return self._ask(
            response,
            messages.reset_result_to,
            lambda engine, number: engine.reset(request.session, request.episode, number),
        )

    def _ask(self, response: Any, fill: Callable[[Any, Any], Any], ask: Callable[[Engine, int], None]) -> Any:
        """Let the engine's thread do what `ask` asks for; return the response, or a Future of it.

        The node's thread goes on meanwhile, so that observations and requests for actions reach the engine. What the
        engine has not answered after LONGEST_ANSWER_S is given up.
        """
        if self._thread is None:
            response.reason = INACTIVE
            return response
        engine = self._thread.engine
        self._number += 1
        number, done = self._number, Future[Any]()
        self._asked[number] = _Asked(time.monotonic(), response, fill, done)
        self._thread.submit(lambda _now: ask(engine, number))
        return done

    def _answer(self, number: int, result: object) -> None:
        """Answer a request of a service, which is then sent; called on the engine's thread."""
        asked = self._asked.pop(number, None)
        if asked is not None:  # else it has been given up
            asked.done.set_result(asked.fill(result, asked.response))


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(InferenceNode))


if __name__ == "__main__":
    main()
