"""Node `inference`: the shared KV service. One model, one session per robot, all model work on the engine's thread."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import cv2
import torch
from rclpy.publisher import Publisher
from rclpy.task import Future
from streaming_vla_interfaces import msg as wire
from streaming_vla_interfaces import srv

from streaming_vla.inference.engine import Engine
from streaming_vla.inference.options import EngineOptions
from streaming_vla.inference.values import (
    ContextReport,
    EncodedObservation,
    FlowResult,
    Refusal,
    ResetResult,
    SaliencyRequest,
    SaliencyResult,
)
from streaming_vla.nodes import messages
from streaming_vla.nodes.base import SuiteNode, reliable
from streaming_vla.nodes.spin import run
from streaming_vla.policy.loading import load_policy
from streaming_vla.policy.models import find_model

Result = TypeVar("Result")
INACTIVE = "inference is not active: activate it first"


class InferenceNode(SuiteNode):
    """Carries observations and requests to the engine; knows nothing of schedules."""

    def __init__(self) -> None:
        super().__init__("inference")
        self._engine: Engine | None = None
        self._contexts: dict[str, Publisher[Any]] = {}
        self._statistics: dict[str, Publisher[Any]] = {}

    def configure(self) -> None:
        """Load the model and connect to every robot of parameter `sessions`."""
        # the cores belong to the control loop: one thread here, and none that spin beside it
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self._policy = load_policy(find_model(self.value("model")))
        self._options = EngineOptions(
            cache_policy=self.value("cache_policy"),
            sinks=self.value("cache_sinks"),
            recent=self.value("cache_recent") or self._policy.spec.tokens_per_observation,
            capacity=self.value("cache_capacity"),
            max_sessions=self.value("max_sessions"),
        )
        names = [self._resolve(name) for name in self.value("sessions")]
        if len(set(names)) != len(names) or len(names) > self._options.max_sessions:
            raise ValueError(
                f"sessions are {', '.join(names)}, expected at most {self._options.max_sessions} different ones "
                "(max_sessions)"
            )
        for name in names:
            self._connect(name)

    def activate(self) -> None:
        """Begin with empty sessions."""
        self._engine = Engine(self._policy, self._options)
        self._engine.start()

    def deactivate(self) -> None:
        """Refuse what waits and end the engine's thread."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def report(self) -> tuple[str, dict[str, object]]:
        """What the engine answered, by code."""
        counts = self._engine.counts() if self._engine is not None else {}
        return "", {"model": self._policy.spec.name, **counts}

    def _resolve(self, name: str) -> str:
        if name == ".":
            return self.session
        return name if name.startswith("/") else f"{self.session.rstrip('/')}/{name}"

    def _connect(self, session: str) -> None:
        prefix = session.rstrip("/")
        convert = partial(messages.observation_from, cameras=self._policy.spec.cameras)
        self._contexts[session] = self.create_publisher(wire.Context, f"{prefix}/context", reliable(10))
        self._statistics[session] = self.create_publisher(wire.KvCacheStats, f"{prefix}/kv_cache_stats", reliable(10))
        self.listen(wire.Observation, f"{prefix}/observation", convert, self._on_observation, reliable(4), session)
        self.create_service(srv.FlowStep, f"{prefix}/flow_step", self._on_flow_step)
        self.create_service(srv.PredictSaliency, f"{prefix}/predict_saliency", self._on_predict_saliency)
        self.create_service(srv.ResetSession, f"{prefix}/reset_session", self._on_reset_session)

    def _on_observation(self, observation: EncodedObservation) -> None:
        if self._engine is not None:
            self._engine.observe(observation, partial(self._hand_over, self._on_prefilled))

    def _on_prefilled(self, outcome: ContextReport | Refusal, done_s: float) -> None:
        if isinstance(outcome, Refusal):
            self.get_logger().warning(f"observation refused: {outcome.reason}", throttle_duration_sec=1.0)
            return
        stamp = self.stamp(done_s)
        self._contexts[outcome.session].publish(messages.context_to(outcome, stamp))
        self._statistics[outcome.session].publish(messages.cache_stats_to(outcome, stamp))
        begin_s = done_s - outcome.prefill_s - outcome.queued_s
        self.span("prefill", begin_s, done_s, outcome.episode, outcome.sequence)

    async def _on_flow_step(self, request: srv.FlowStep.Request, response: srv.FlowStep.Response) -> Any:
        if self._engine is None:
            response.reason = INACTIVE
            return response
        step = messages.flow_request_from(request)
        answer: Future[tuple[FlowResult, float]] = Future()
        self._engine.flow_step(request.session, step, partial(self._complete, answer))
        result, done_s = await answer
        if result.accepted and self.executor is not None:
            begin_s = done_s - result.compute_s
            # as a task of its own, so that the answer goes out first
            self.executor.create_task(self.span, "flow_step", begin_s, done_s, step.episode, step.context, step.index)
        return messages.flow_result_to(result, response)

    async def _on_predict_saliency(
        self, request: srv.PredictSaliency.Request, response: srv.PredictSaliency.Response
    ) -> Any:
        if self._engine is None:
            response.reason = INACTIVE
            return response
        question = SaliencyRequest(request.episode, request.context, messages.vector(request.pending))
        answer: Future[tuple[SaliencyResult, float]] = Future()
        self._engine.predict_saliency(request.session, question, partial(self._complete, answer))
        result, _ = await answer
        response.accepted, response.reason, response.saliency = result.accepted, result.reason, result.saliency
        return response

    async def _on_reset_session(self, request: srv.ResetSession.Request, response: srv.ResetSession.Response) -> Any:
        if self._engine is None:
            response.reason = INACTIVE
            return response
        answer: Future[tuple[ResetResult, float]] = Future()
        self._engine.reset(request.session, request.episode, partial(self._complete, answer))
        result, _ = await answer
        response.accepted, response.reason = result.accepted, result.reason
        return response

    def _hand_over(self, handle: Callable[[Result, float], None], result: Result) -> None:
        """Let `handle` run on the node's thread; called on the engine's."""
        if self.executor is not None:
            self.executor.create_task(handle, result, time.monotonic())

    def _complete(self, answer: Future[tuple[Result, float]], result: Result) -> None:
        """Complete what a service callback awaits; called on the engine's thread."""
        answer.set_result((result, time.monotonic()))
        if self.executor is not None:
            self.executor.wake()  # completing a future does not wake an executor that waits


def main() -> None:
    """Entry point of the process."""
    sys.exit(run(InferenceNode))


if __name__ == "__main__":
    main()
