"""Node `inference`: the shared KV service. One model, one session per robot, all model work on the engine's thread."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import cv2
import torch
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidNamespaceException
from rclpy.publisher import Publisher
from rclpy.task import Future
from rclpy.validate_namespace import validate_namespace
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.engine.cache import EngineOptions, differences, engine_options
from streaming_vla.engine.delay import Delay
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import find_profile
from streaming_vla.engine.options import InferenceOptions
from streaming_vla.engine.sessions import check_fit
from streaming_vla.engine.values import (
    ContextReport,
    EncodedObservation,
    FlowResult,
    Refusal,
    ResetResult,
    SaliencyRequest,
    SaliencyResult,
)
from streaming_vla.policies.models import find_model
from streaming_vla.ros import messages
from streaming_vla.ros.base import SuiteNode, reliable
from streaming_vla.ros.spin import run
from streaming_vla.saliency.loading import load_with_predictor

Result = TypeVar("Result")
LONGEST_ANSWER_S = 2.0
NO_ANSWER = f"the model has not answered for {LONGEST_ANSWER_S:g} s: restart this node"
SAID_FOR_S = 10.0  # in the diagnostics
INACTIVE = "inference is not active: activate it first"


class InferenceNode(SuiteNode[InferenceOptions]):
    """Carries observations and requests to the engine; knows nothing of schedules."""

    def __init__(self) -> None:
        super().__init__("inference", InferenceOptions)
        self._engine_options: EngineOptions | None = None
        self._engine: Engine | None = None
        self._delay: Delay | None = None
        # a group of their own: while an answer is awaited, the node's other callbacks go on, on the same thread
        self._answering = ReentrantCallbackGroup()
        self._contexts: dict[str, Publisher[Any]] = {}
        self._statistics: dict[str, Publisher[Any]] = {}
        # awaited answers, the oldest first; taking one out, which either thread may do, decides who completes it
        self._awaited: dict[Future[Any], float] = {}
        self._unanswered_s = -math.inf

    def configure(self) -> None:
        """Load the model and connect to every robot of parameter `sessions`."""
        # the cores belong to the control loop: one thread here, and none that spin beside it
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        options = self.options
        self._policy = load_with_predictor(options.model, options.saliency_model)
        spec = self._policy.spec
        engine = self._engine_options = engine_options(options, spec.tokens_per_observation, options.max_sessions)
        check_fit(spec, engine)
        if engine.gate is not None and options.cache_policy == "gated":
            for sentence in differences(engine.gate.training, engine.cache, find_model(options.model)):
                self.get_logger().warning(sentence)
        name = options.latency_profile
        self._profile = find_profile(name) if name else None
        names = [self._resolve(name) for name in options.sessions]
        if len(set(names)) != len(names) or len(names) > options.max_sessions:
            raise ValueError(
                f"sessions are {', '.join(names)}, expected at most {options.max_sessions} different ones "
                "(max_sessions)"
            )
        for name in names:
            self._connect(name)

    def update(self, options: InferenceOptions) -> None:
        """Take a new budget or threshold of the cache; open sessions go on with it."""
        if self._engine_options is None:  # not configured yet: `configure` will check it
            return
        engine = self._engine_options.retuned(options)
        try:
            check_fit(self._policy.spec, engine)
            if self._engine is not None:
                self._engine.retune(engine)
        except MemoryError as error:
            raise ValueError(str(error)) from error
        self._engine_options = engine

    def activate(self) -> None:
        """Begin with empty sessions."""
        assert self._engine_options is not None, "a node is configured before it is activated"
        self._delay = None
        if self._profile is not None:
            self._delay = Delay(self._profile, time.perf_counter)
            self.get_logger().warning(
                f"latency profile '{self._profile.name}' is on, answers are held back: {self._profile.description}"
            )
        self._engine = Engine(self._policy, self._engine_options, delay=self._delay)
        self._engine.start()
        self.raise_priority(self.options.realtime_priority)

    def deactivate(self) -> None:
        """Refuse what waits and end the engine's thread."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def report(self) -> tuple[str, dict[str, object]]:
        """What the engine answered, by code."""
        counts = self._engine.counts() if self._engine is not None else {}
        predictor = "yes" if self._policy.predictor is not None else "no"
        figures: dict[str, object] = {"model": self._policy.spec.name, "saliency_predictor": predictor, **counts}
        if self._delay is not None:
            figures |= {"latency_profile": self._delay.profile.name, "later_than_profile": self._delay.late()}
        silent = time.monotonic() < self._unanswered_s + SAID_FOR_S
        return NO_ANSWER if silent else "", figures

    def deadline(self) -> float | None:
        """When the oldest request that is awaited has waited long enough."""
        waiting = list(self._awaited.values())  # a copy: the engine's thread takes out of it
        return min(waiting) + LONGEST_ANSWER_S if waiting else None

    def tick(self) -> None:
        """Give up requests that the model has not answered."""
        now = time.monotonic()
        for awaited, since_s in list(self._awaited.items()):
            if now >= since_s + LONGEST_ANSWER_S and self._awaited.pop(awaited, None) is not None:
                awaited.set_result(None)

    def _resolve(self, name: str) -> str:
        """Return the namespace that `name` means, as the robot's own nodes say it; ValueError when it is none."""
        if name == ".":
            return self.session
        session = name if name.startswith("/") else f"{self.session.rstrip('/')}/{name}"
        session = session.rstrip("/") or "/"
        try:
            validate_namespace(session if name else "")
        except InvalidNamespaceException as error:
            raise ValueError(
                f"sessions has '{name}', which is no namespace: expected letters, digits, '_' and '/', as in /left"
            ) from error
        return session

    def _connect(self, session: str) -> None:
        prefix = session.rstrip("/")
        convert = partial(messages.observation_from, cameras=self._policy.spec.cameras)
        self._contexts[session] = self.create_publisher(wire.Context, f"{prefix}/context", reliable(10))
        self._statistics[session] = self.create_publisher(wire.KvCacheStats, f"{prefix}/kv_cache_stats", reliable(10))
        self.listen(wire.Observation, f"{prefix}/observation", convert, self._on_observation, reliable(4), session)
        for kind, name, callback in (
            (srv.FlowStep, "flow_step", self._on_flow_step),
            (srv.PredictSaliency, "predict_saliency", self._on_predict_saliency),
            (srv.ResetSession, "reset_session", self._on_reset_session),
        ):
            self.create_service(kind, f"{prefix}/{name}", callback, callback_group=self._answering)

    def _on_observation(self, observation: EncodedObservation) -> None:
        if self._engine is not None:
            self._engine.observe(observation, partial(self._hand_over, self._on_prefilled))

    def _on_prefilled(self, outcome: ContextReport | Refusal, done_s: float) -> None:
        if isinstance(outcome, Refusal):
            self.get_logger().warning(f"observation refused: {outcome.reason}", throttle_duration_sec=1.0)
            return
        stamp = self.stamp(done_s)
        self._contexts[outcome.session].publish(messages.context_to(outcome, self._policy.spec.layout, stamp))
        self._statistics[outcome.session].publish(messages.cache_stats_to(outcome, stamp))
        begin_s = done_s - outcome.prefill_s - outcome.queued_s
        self.span("prefill", begin_s, done_s, outcome.episode, outcome.sequence)

    async def _on_flow_step(self, request: srv.FlowStep.Request, response: srv.FlowStep.Response) -> Any:
        step = messages.flow_request_from(request)
        result: FlowResult | None = await self._answer(
            response, lambda it, done: it.flow_step(request.session, step, done)
        )
        if result is None:
            return response
        if result.accepted and self.executor is not None:
            done_s = time.monotonic()
            # as a task of its own, so that the answer goes out first
            self.executor.create_task(
                self.span, "flow_step", done_s - result.compute_s, done_s, step.episode, step.context, step.index
            )
        return messages.flow_result_to(result, response)

    async def _on_predict_saliency(
        self, request: srv.PredictSaliency.Request, response: srv.PredictSaliency.Response
    ) -> Any:
        question = SaliencyRequest(
            request.episode, request.context, request.index, messages.vector(request.pending), request.saliency_of
        )
        result: SaliencyResult | None = await self._answer(
            response, lambda it, done: it.predict_saliency(request.session, question, done)
        )
        if result is not None:
            response.accepted, response.reason, response.saliency = result.accepted, result.reason, result.saliency
        return response

    async def _on_reset_session(self, request: srv.ResetSession.Request, response: srv.ResetSession.Response) -> Any:
        if request.session not in self._contexts:  # it would take the cache of a robot that is served
            response.reason = f"session '{request.session}' is not served here: expected {' or '.join(self._contexts)}"
            self.refuse("session_not_served", response.reason)
            return response
        result: ResetResult | None = await self._answer(
            response, lambda it, done: it.reset(request.session, request.episode, done)
        )
        if result is not None:
            response.accepted, response.reason = result.accepted, result.reason
        return response

    async def _answer(self, response: Any, ask: Callable[[Engine, Callable[[Any], None]], None]) -> Any:
        """Let the engine's thread do what `ask` asks for and wait for its result; None when there is none.

        With one robot it blocks the node's thread for the work itself and at most one slice of a prefill: an await
        costs another round of rclpy's executor, which takes the interpreter lock from the engine. With several it is
        awaited, so that what the others ask reaches the engine meanwhile and goes in one pass; so is an answer that a
        latency profile holds back, so that observations come in and contexts go out. Whoever asked may give up.
        """
        if self._engine is None:
            response.reason = INACTIVE
            return None
        if self._delay is not None or len(self._contexts) > 1:
            awaited: Future[Any] = Future()
            self._awaited[awaited] = time.monotonic()
            ask(self._engine, partial(self._complete, awaited))
            result = await awaited
            if result is None:
                self._unanswered(response)
            return result
        answer: SimpleQueue[Any] = SimpleQueue()
        ask(self._engine, answer.put)
        try:
            return answer.get(timeout=LONGEST_ANSWER_S)
        except Empty:
            self._unanswered(response)
            return None

    def _unanswered(self, response: Any) -> None:
        self.refusals["no_answer"] += 1
        self._unanswered_s = time.monotonic()
        response.reason = NO_ANSWER

    def _complete(self, awaited: Future[Any], result: object) -> None:
        """Complete what a callback awaits; called on the thread of the engine or of the delay."""
        if self._awaited.pop(awaited, None) is None:  # it has been given up
            return
        awaited.set_result(result)
        if self.executor is not None:
            self.executor.wake()  # a future that is completed does not wake it

    def _hand_over(self, handle: Callable[[Result, float], None], result: Result) -> None:
        """Let `handle` run on the node's thread; called on the engine's."""
        if self.executor is not None:
            self.executor.create_task(handle, result, time.monotonic())


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(InferenceNode))


if __name__ == "__main__":
    main()
