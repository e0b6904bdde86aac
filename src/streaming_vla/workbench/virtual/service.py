"""A policy as the service of a virtual run: the engine's own sessions and picture decoding, without its thread."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from streaming_vla.engine import saliency
from streaming_vla.engine.cache import engine_options
from streaming_vla.engine.images import decode_all
from streaming_vla.engine.options import CacheOptions
from streaming_vla.engine.refused import Refused
from streaming_vla.engine.sessions import Sessions
from streaming_vla.engine.values import SaliencyRequest
from streaming_vla.machines.events import (
    ContextReady,
    FlowReply,
    FlowRequest,
    SaliencyQuestion,
    SaliencyReply,
    Snapshot,
)
from streaming_vla.policies.contract import ChunkPolicy, PolicyObservation, StreamingPolicy, prefill_whole
from streaming_vla.policies.layout import Vector
from streaming_vla.sim.metaworld import METRES_PER_UNIT
from streaming_vla.workbench.virtual.baselines.events import ChunkReply, ChunkRequest

SESSION = "/"


def hand_after(state: Vector, actions: Vector) -> Vector:
    """Return Meta-World's state, [4], after the summed `actions`, [4]: the hand moves, the gripper stays."""
    moved = state.copy()
    moved[:3] += METRES_PER_UNIT * actions[:3]
    return moved


class PolicyService:
    """Does at once what the inference node does; the virtual clock says how long it took.

    Args:
        policy: the model; strategies for chunks need a ChunkPolicy.
        cache: what is kept of the history.
        seed: of the episode: of the noise that chunks begin with, and of the draws of a random cache.

    Raises:
        ValueError: the cache does not fit the policy.
        MemoryError: it would be too large.
    """

    def __init__(self, policy: StreamingPolicy, cache: CacheOptions, seed: int) -> None:
        self._policy = policy
        self._sessions = Sessions(policy.spec, engine_options(cache, policy.spec.tokens_per_observation, seed=seed))
        self._random = np.random.default_rng(seed)
        self.last_state: Vector | None = None  # of the newest observation
        self.work: Counter[str] = Counter()  # how often each kind of work of virtual_cost.costs was done

    def prefill(self, snapshot: Snapshot, shift: Vector | None, pending: Vector | None = None) -> ContextReady | None:
        """Prefill an observation; None when it is outdated, or when the cache is full."""
        spec, request = self._policy.spec, snapshot.request
        state = snapshot.state if shift is None else hand_after(snapshot.state, shift)
        images = decode_all([snapshot.frames[camera] for camera in spec.cameras], spec.cameras, spec.image_size)
        session = self._sessions.open(SESSION)
        try:
            session.admit(request.episode, request.sequence)
            seen = PolicyObservation(images, state.astype(np.float32), snapshot.instruction, pending)
            with torch.inference_mode():
                self.work["prefill"] += 1
                session.extend(request.sequence, prefill_whole(self._policy, seen, session.cache.view()))
        except Refused:
            return None
        self.last_state = snapshot.state
        return ContextReady(request.episode, request.sequence, spec.execution_horizon, spec.trained_horizon)

    def flow_step(self, request: FlowRequest) -> FlowReply:
        """Do one flow step against a kept context."""
        try:
            view = self._sessions.find(SESSION).context(request.episode, request.context).view
        except Refused as refused:
            return FlowReply(request.episode, request.context, request.index, False, np.zeros(0), refused.reason)
        with torch.inference_mode():
            self.work["flow_step"] += 1
            values = self._policy.flow_step(view, request.position, request.index)
        return FlowReply(request.episode, request.context, request.index, True, values)

    def chunk(self, request: ChunkRequest) -> ChunkReply:
        """Denoise a chunk from noise with equal Euler steps."""
        policy: ChunkPolicy = self._policy  # type: ignore[assignment]
        spec = policy.spec
        try:
            view = self._sessions.find(SESSION).context(request.episode, request.context).view
        except Refused as refused:
            return ChunkReply(request.episode, request.context, False, np.zeros((0, 0)), refused.reason)
        kind = "chunk_step" if request.guide is None or not request.guide.exact else "exact_chunk_step"
        self.work[kind] += request.steps
        noisy = self._random.standard_normal((spec.trained_horizon, spec.layout.size))
        for step in range(request.steps):
            noisy = policy.chunk_step(view, noisy, step / request.steps, 1.0 / request.steps, request.guide)
        return ChunkReply(request.episode, request.context, True, spec.layout.clip(noisy))

    def must_plan(self, question: SaliencyQuestion) -> bool:
        """Say whether the answer needs a plan that is not made yet; not of a context that is no longer kept."""
        try:
            return saliency.must_plan(self._sessions.find(SESSION), _request(question))
        except Refused:
            return False

    def look_ahead(self, question: SaliencyQuestion) -> SaliencyReply:
        """Ask the policy for the saliency of a context."""
        numbers = (question.episode, question.context, question.index)
        planned = self.must_plan(question)
        try:
            with torch.inference_mode():
                found = saliency.answer(self._policy, self._sessions.find(SESSION), _request(question))
        except Refused as refused:
            return SaliencyReply(*numbers, False, float("nan"), refused.reason)
        if planned:
            self.work["plan"] += 1
        elif question.of != "plan":
            self.work["look_ahead"] += 1
        return SaliencyReply(*numbers, True, found)


def _request(question: SaliencyQuestion) -> SaliencyRequest:
    return SaliencyRequest(question.episode, question.context, question.index, question.pending, question.of)
