"""The engine: one policy that serves several robots from one thread, flow steps before prefills."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from streaming_vla.engine import saliency
from streaming_vla.engine.cache import EngineOptions
from streaming_vla.engine.delay import Delay, held, held_answer
from streaming_vla.engine.flow_steps import Asked, FlowSteps, answered
from streaming_vla.engine.prefill import Prefill, refuse_observation
from streaming_vla.engine.refused import Refused
from streaming_vla.engine.replies import Replies
from streaming_vla.engine.request import Notice, Request, Shared
from streaming_vla.engine.sessions import Sessions, check_fit
from streaming_vla.engine.values import (
    EncodedObservation,
    FlowResult,
    ResetResult,
    SaliencyRequest,
    SaliencyResult,
)
from streaming_vla.engine.waiting import ObservationDone, Waiting, WaitingObservation
from streaming_vla.engine.worker import Priority, Worker
from streaming_vla.machines.events import FlowRequest
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.policies.contract import StreamingPolicy

Result = TypeVar("Result")


class Engine:
    """Serves observations and requests; every call returns at once, and `done` is called once on the worker's thread.

    Order of work: reset, flow step, saliency, prefill. A prefill advances one slice at a time, so a flow step
    waits for one slice at most. What cannot be served is refused with a code, which is counted, and a sentence;
    an error in the policy is such a refusal. After `close`, `done` is called on the caller's thread.

    Args:
        policy: the model.
        options: cache and sessions.
        clock: seconds, monotonic.
        delay: holds answers back until they are as late as its profile says; the engine starts and closes it.

    Raises:
        ValueError: an observation of the policy does not fit into what its cache keeps.
        MemoryError: the sessions' caches would be too large.
    """

    def __init__(
        self,
        policy: StreamingPolicy,
        options: EngineOptions,
        clock: Callable[[], float] = time.perf_counter,
        delay: Delay | None = None,
    ) -> None:
        sessions = Sessions(policy.spec, options)
        self._shared = Shared(policy, sessions, Waiting(), Replies(), LatencyTracker(warm_up=1), clock)
        self._flow_steps = FlowSteps(self._shared)
        self._worker = Worker("inference engine")
        self._delay = delay

    def start(self) -> None:
        """Start the worker's thread; what came before waits for it. An engine starts once."""
        self._worker.start()
        if self._delay is not None:
            self._delay.start()

    def close(self) -> None:
        """Refuse what waits and join the thread. May be called again, but not from a `done`."""
        self._worker.close()
        if self._delay is not None:
            self._delay.close()

    def work(self) -> bool:
        """Do the next slice on the caller's thread, instead of `start`; False when there is nothing to do."""
        return self._worker.work()

    def counts(self) -> dict[str, int]:
        """Return how often each code was answered: served.flow_step, old_episode, ... From any thread."""
        counts = self._shared.replies.counts()
        failed = self._delay.failed() if self._delay is not None else 0
        return {**counts, "callback_failed": counts.get("callback_failed", 0) + failed} if failed else counts

    def retune(self, options: EngineOptions) -> None:
        """Go on with another budget or threshold of the cache; sessions keep what they hold. From any thread.

        Raises:
            ValueError: the options do not fit the policy, or differ in more than that.
            MemoryError: the sessions' caches would be too large.
        """
        shared = self._shared
        check_fit(shared.policy.spec, options)
        shared.sessions.check_retune(options)
        self._worker.submit(Notice(lambda: shared.sessions.retune(options)))

    def observe(self, observation: EncodedObservation, done: ObservationDone) -> None:
        """Prefill an observation into its session. One waits per session; a newer one takes its place."""
        shared = self._shared
        done = done if self._delay is None else held(self._delay, "observe", shared.clock(), done)
        new = WaitingObservation(observation, done, shared.clock())
        try:
            old = shared.waiting.offer(new)
        except Refused as refused:
            self._tell(new, refused)
            return
        if old is None:
            self._worker.submit(Prefill(shared, observation.session))
            return
        sentence = f"observation {observation.sequence} of {observation.session} came before it was begun"
        self._tell(old, Refused("superseded", sentence))

    def flow_step(self, session: str, request: FlowRequest, done: Callable[[FlowResult], None]) -> None:
        """Do one step of the flow against a kept context of the session, together with others that wait and fit."""
        now = self._shared.clock()
        done = done if self._delay is None else held(self._delay, "flow_step", now, done)
        try:
            self._shared.waiting.enter(session, Priority.FLOW_STEP)
        except Refused as refused:
            answer = answered(refused, 0.0, 0.0, done)
            self._worker.submit(Notice(lambda: self._shared.replies.send(*answer)))
            return
        self._worker.submit(self._flow_steps.add(Asked(session, request, done, now)))

    def predict_saliency(self, session: str, request: SaliencyRequest, done: Callable[[SaliencyResult], None]) -> None:
        """Ask the policy for the saliency of a context (see saliency.answer)."""

        def serve(_queued_s: float) -> SaliencyResult:
            own = self._shared.sessions.find(session)
            planned = saliency.must_plan(own, request)
            return SaliencyResult(True, "", "", saliency.answer(self._shared.policy, own, request), planned)

        def refuse(refused: Refused, _queued_s: float) -> SaliencyResult:
            return SaliencyResult(False, refused.code, refused.reason, float("nan"))

        now = self._shared.clock()
        if self._delay is not None:
            done = held_answer(self._delay, now, done)
        self._submit(Request(self._shared, Priority.SALIENCY, session, serve, refuse, done, now))

    def reset(self, session: str, episode: int, done: Callable[[ResetResult], None]) -> None:
        """Forget the session's history and begin `episode`; any number is taken, so that a wrong one can be undone."""

        def serve(_queued_s: float) -> ResetResult:
            shared = self._shared
            shared.sessions.open(session).begin(episode)
            late = shared.waiting.take_other(session, episode)
            if late is not None:  # it would begin its own episode again
                sentence = f"{session} was reset to episode {episode} before observation was begun"
                refuse_observation(shared, late, Refused("reset", sentence))
            return ResetResult(True, "", "")

        def refuse(refused: Refused, _queued_s: float) -> ResetResult:
            return ResetResult(False, refused.code, refused.reason)

        self._submit(Request(self._shared, Priority.RESET, session, serve, refuse, done, self._shared.clock()))

    def _submit(self, request: Request[Result]) -> None:
        try:
            self._shared.waiting.enter(request.session, request.priority)
        except Refused as refused:
            refusal = refused
            self._worker.submit(Notice(lambda: request.refuse(refusal)))
            return
        self._worker.submit(request)

    def _tell(self, waiting: WaitingObservation, refused: Refused) -> None:
        self._worker.submit(Notice(lambda: refuse_observation(self._shared, waiting, refused)))
