"""Whole chunks of actions from the engine: an observation, and all steps of its context granted with it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from streaming_vla.engine.cache import EngineOptions
from streaming_vla.engine.engine import Engine
from streaming_vla.engine.latency_profile import LatencyProfile
from streaming_vla.engine.pace import ProfilePace
from streaming_vla.engine.refused import Refused
from streaming_vla.engine.thread import EngineThread
from streaming_vla.engine.values import ContextReport, EncodedObservation, Refusal, Reply
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.policies.contract import FlowPolicy, Matrix
from streaming_vla.serving.request import Request

Name = tuple[str, int, int]  # session, episode, sequence


@dataclass(frozen=True)
class Chunk:
    """Actions [trained_horizon, A] of one observation.

    Args:
        model_s: what the policy took, seconds.
        queued_s: waiting for the work of other clients, seconds.
    """

    actions: Matrix
    model_s: float
    queued_s: float


@dataclass
class _Asked:
    done: asyncio.Future[Chunk]
    actions: list[GeneratedAction] = field(default_factory=list)
    report: ContextReport | None = None


class Chunks:
    """Runs the engine on its thread for callers of one event loop.

    A slice of one session's observation, or a step of its flow, is what another one waits for at most.

    Args:
        policy: the model.
        options: cache and sessions.
        profile: holds answers back as a slower machine or a network would; None: none.
    """

    def __init__(self, policy: FlowPolicy, options: EngineOptions, profile: LatencyProfile | None = None) -> None:
        self.spec = policy.spec
        self.engine = Engine(policy, options, pace=None if profile is None else ProfilePace(profile))
        self._thread = EngineThread(self.engine, self._on_reply, time.monotonic, profile)
        self._loop = asyncio.get_running_loop()
        self._asked: dict[Name, _Asked] = {}
        self._thread.start()

    async def ask(self, session: str, episode: int, sequence: int, request: Request) -> Chunk:
        """Return the actions of an observation.

        Raises:
            Refused: the engine does not serve it, or the policy fails.
        """
        spec, engine = self.spec, self.engine
        first = None if request.planned is None else request.planned[0]
        grant = GenerateRequest(
            episode,
            sequence,
            revision=1,
            step=0,
            position=spec.layout.start(first),
            until=spec.trained_horizon,
            planned=request.planned,
            delay=request.delay,
        )
        seen = EncodedObservation(
            session, episode, sequence, request.instruction, (), request.state, pictures=request.pictures
        )
        asked = self._asked[session, episode, sequence] = _Asked(self._loop.create_future())
        try:
            # granted first: planned actions have to be known when the chunk is denoised
            self._thread.submit(partial(engine.generate, session, grant), session)
            self._thread.submit(partial(engine.observe, seen), session)
            return await asked.done
        finally:
            del self._asked[session, episode, sequence]

    def begin(self, session: str, episode: int) -> None:
        """Let a session go: its history is forgotten, what it has in work is given up."""
        self._thread.submit(lambda _now: self.engine.reset(session, episode, 0), session)

    def stuck_s(self) -> float:
        """Return for how long the policy has been in one slice, seconds."""
        return max(0.0, time.monotonic() - self.engine.working_since())

    async def close(self, timeout_s: float) -> bool:
        """End the thread; return whether it has ended, which a policy that hangs keeps it from."""
        return await asyncio.to_thread(self._thread.close, timeout_s)

    def _on_reply(self, reply: Reply) -> None:
        """Take a reply over to the event loop; called on the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, reply)

    def _take(self, reply: Reply) -> None:
        value = reply.value
        if isinstance(value, GeneratedAction):
            asked = self._asked.get((reply.session, value.episode, value.context))
        elif isinstance(value, ContextReport | Refusal):
            asked = self._asked.get((reply.session, value.episode, value.sequence))
        else:
            return
        if asked is None or asked.done.done():  # its client has gone
            return
        if isinstance(value, ContextReport):
            asked.report = value
        elif isinstance(value, Refusal) or not value.accepted:
            asked.done.set_exception(Refused(value.code, value.reason))
            return
        else:
            asked.actions.append(value)
        if asked.report is not None and len(asked.actions) == self.spec.trained_horizon:
            asked.done.set_result(_chunk(asked.report, asked.actions))


def _chunk(report: ContextReport, actions: list[GeneratedAction]) -> Chunk:
    return Chunk(
        np.stack([action.values for action in actions]),
        report.prefill_s + sum(action.compute_s for action in actions),
        report.queued_s + sum(action.queued_s for action in actions),
    )
