"""Generation: which steps of which flows a robot has granted, and the job that does them one by one."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from kv_cache.cache import CacheView
from streaming_vla.engine.jobs import Outcome, Priority, Work
from streaming_vla.engine.refused import Refused, checked, describe
from streaming_vla.engine.sessions import Session
from streaming_vla.engine.values import Reply
from streaming_vla.machines.events import GeneratedAction, GenerateRequest
from streaming_vla.policies.contract import FlowPolicy, FlowQuery, PlannedActions, PolicySpec
from streaming_vla.policies.layout import Vector

if TYPE_CHECKING:
    from streaming_vla.engine.engine import Engine

LOGGER = logging.getLogger(__name__)
CONTEXTS_TO_COME = 2  # that may be granted before they exist


@dataclass
class Flow:
    """The flow of one context: its next step, the state to ask it from [A], and where the granted steps end."""

    episode: int
    context: int
    revision: int
    step: int
    position: Vector
    until: int
    asked_s: float  # since when the next step could have been done, engine's clock
    state: Vector | None = None
    state_s: float = 0.0  # when that state was measured, engine's clock
    planned: PlannedActions | None = None


class Grants:
    """What one robot has granted, by context. Its episode is that of the newest request."""

    def __init__(self) -> None:
        self.episode = -1
        self._flows: dict[int, Flow] = {}

    def take(self, request: GenerateRequest, session: Session | None, spec: PolicySpec, now: float) -> None:
        """Begin a flow, or grant more steps of it.

        Raises:
            Refused: an old episode, a context that is no longer kept, a step outside of the horizon, or vectors that
                are none.
        """
        known = -1 if session is None else session.episode
        if request.episode < max(self.episode, known):
            raise Refused(
                "old_episode",
                f"actions of episode {request.episode} are asked for, the robot is in {max(self.episode, known)}",
            )
        if session is not None and request.episode == known and request.context <= session.newest:
            session.context(request.episode, request.context)  # refuses one that is not kept
        if not 0 <= request.step < spec.trained_horizon or request.until > spec.trained_horizon:
            raise Refused(
                "bad_step",
                f"steps {request.step} to before {request.until} of a flow are asked for, there are 0 to "
                f"{spec.trained_horizon - 1}",
            )
        position = checked("bad_position", "flow state", spec.layout, request.position)
        state = None if request.state is None else _checked_state(request.state, spec.state_size)
        planned = _checked_planned(request, spec)
        if request.episode > self.episode:
            self.episode = request.episode
            self._flows.clear()
        flow = self._flows.get(request.context)
        if flow is None or request.revision > flow.revision:
            told = planned if planned is not None or flow is None else flow.planned
            flow = Flow(
                request.episode,
                request.context,
                request.revision,
                request.step,
                position,
                request.until,
                now,
                planned=told,
            )
            self._flows[request.context] = flow
        elif request.revision < flow.revision:
            return  # overtaken on the way
        elif request.until > flow.until:
            flow.asked_s = max(flow.asked_s, now) if flow.step >= flow.until else flow.asked_s
            flow.until = request.until
        if state is not None:
            flow.state, flow.state_s = state, now - max(0.0, _finite(request.state_age_s))
        self._drop_old(request, session)

    def planned(self, episode: int, context: int) -> PlannedActions | None:
        """Return the actions that the robot has planned from the picture of `context` on, None: not told."""
        flow = self._flows.get(context) if episode == self.episode else None
        return None if flow is None else flow.planned

    def next(self, session: Session | None) -> Flow | None:
        """Return the flow of the newest context that has a granted step and can be asked, or None."""
        if session is None or session.episode != self.episode:
            return None
        granted = (flow for flow in self._flows.values() if flow.step < flow.until and session.keeps(flow.context))
        return max(granted, key=lambda flow: flow.context, default=None)

    def end(self, flow: Flow) -> None:
        """Let a flow go; a request of its revision begins it anew."""
        if self._flows.get(flow.context) is flow:
            del self._flows[flow.context]

    def _drop_old(self, request: GenerateRequest, session: Session | None) -> None:
        """End the flows of contexts older than one that exists and is asked for; bound those that do not exist."""
        exists = session is not None and session.episode == self.episode and session.keeps(request.context)
        if exists:
            self._flows = {number: flow for number, flow in self._flows.items() if number >= request.context}
        to_come = sorted(n for n in self._flows if session is None or n > session.newest)
        for number in to_come[:-CONTEXTS_TO_COME]:
            del self._flows[number]


class Generation:
    """The job of one robot's generation: a slice is one step of a flow.

    Steps of other robots that wait and fit into the same pass go with it.
    """

    priority = Priority.GENERATE

    def __init__(self, engine: Engine, session: str) -> None:
        self._engine = engine
        self.session = session
        self.work = Work.ROW if hasattr(engine.policy, "complete") else Work.FLOW_STEP
        self._done: list[tuple[str, Flow, GeneratedAction]] = []

    def run(self, now: float) -> Outcome:
        """Do the next step of this robot and of those that fit to it."""
        engine, policy = self._engine, self._engine.policy
        with engine.lock:  # requests come on other threads
            own = engine.next_flow(self.session)
            if own is None:  # cancelled meanwhile, or done along with another robot's
                return Outcome(nothing=True)
            asked = [(self.session, own, self._query(self.session, own, now))]
            if hasattr(policy, "flow_steps"):
                asked += self._fitting(asked[0][2].view, now)
        found = self._steps(policy, [query for _, _, query in asked])
        with engine.lock:
            self._done = [
                (session, flow, self._action(session, flow, values, now))
                for (session, flow, _), values in zip(asked, found, strict=True)
            ]
            return Outcome(again=engine.next_flow(self.session) is not None)

    def timed(self, outcome: Outcome, seconds: float, end_s: float) -> None:
        """Say how long the step took; the next one of these flows can be done from its end on."""
        if all(action.accepted for _, _, action in self._done):
            self._engine.flow_latency.add(seconds)
        for _, flow, _ in self._done:
            flow.asked_s = end_s
        outcome.replies = [Reply(session, replace(action, compute_s=seconds)) for session, _, action in self._done]

    def hold(self) -> Outcome:
        """Never asked: a step is one slice."""
        raise NotImplementedError

    def cancel(self, refused: Refused) -> list[Reply]:
        """Answer what was granted with a refusal."""
        flow = self._engine.next_flow(self.session)
        return [] if flow is None else [Reply(self.session, self._refusal(self.session, flow, refused))]

    def _query(self, session: str, flow: Flow, now: float) -> FlowQuery:
        context = self._engine.sessions.find(session).context(flow.episode, flow.context)
        state = None if flow.state is None else flow.state.astype(np.float32)
        return FlowQuery(context.view, flow.position, flow.step, context.own, state, max(0.0, now - flow.state_s))

    def _fitting(self, view: CacheView, now: float) -> list[tuple[str, Flow, FlowQuery]]:
        """Return the next steps of the other robots that wait and can go with a step of `view`."""
        found = []
        for job in self._engine.waiting(Generation):
            flow = self._engine.next_flow(job.session)
            if flow is not None:
                query = self._query(job.session, flow, now)
                if _fit(query.view, view):
                    found.append((job.session, flow, query))
        return found

    def _steps(self, policy: FlowPolicy, queries: list[FlowQuery]) -> Sequence[Vector | Refused]:
        self._engine.count_work(self.work, len(queries))
        try:
            with torch.inference_mode():
                if len(queries) == 1:
                    return [policy.flow_step(queries[0])]
                together: list[Vector] = policy.flow_steps(queries)  # type: ignore[attr-defined]
            if len(together) != len(queries):
                raise ValueError(f"flow_steps returned {len(together)} actions, expected {len(queries)}")
            return together
        except Exception as error:
            LOGGER.exception("policy %s failed", policy.spec.name)
            failed = Refused("policy_failed", describe(f"policy {policy.spec.name} in flow_step", error))
            return [failed] * len(queries)

    def _action(self, session: str, flow: Flow, values: Vector | Refused, now: float) -> GeneratedAction:
        """Return the action that a step gave and move the flow on, or end it with a refusal."""
        spec = self._engine.policy.spec
        if not isinstance(values, Refused):
            try:
                values = spec.layout.check(values)
            except Exception as error:  # a policy may return anything
                LOGGER.error("policy %s failed: %s", spec.name, error)
                values = Refused("policy_failed", describe(f"policy {spec.name} in flow_step", error))
        if isinstance(values, Refused):
            return self._refusal(session, flow, values)
        action = GeneratedAction(
            flow.episode,
            flow.context,
            flow.revision,
            flow.step,
            True,
            values,
            queued_s=max(0.0, now - flow.asked_s),
        )
        flow.position = spec.layout.advance(flow.position, values)
        flow.step += 1
        return action

    def _refusal(self, session: str, flow: Flow, refused: Refused) -> GeneratedAction:
        self._engine.grants(session).end(flow)
        return refusal(flow.episode, flow.context, flow.revision, flow.step, refused)


def refusal(episode: int, context: int, revision: int, step: int, refused: Refused) -> GeneratedAction:
    """Return the answer to a request that is not served."""
    return GeneratedAction(episode, context, revision, step, False, np.zeros(0), refused.code, refused.reason)


def _fit(view: CacheView, other: CacheView) -> bool:
    """Tell whether two contexts fit into one pass."""
    return view.tokens == other.tokens and view.next_position == other.next_position


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _checked_state(values: Vector, size: int) -> Vector:
    state = np.asarray(values, dtype=np.float64)
    if state.shape != (size,) or not all(map(math.isfinite, state.tolist())):
        raise Refused("bad_state", f"the robot's newest state has shape {state.shape}, expected ({size},), all finite")
    return state


def _checked_planned(request: GenerateRequest, spec: PolicySpec) -> PlannedActions | None:
    if request.planned is None:
        return None
    actions = np.asarray(request.planned, dtype=np.float64)
    if actions.ndim != 2 or actions.shape[1] != spec.layout.size or not np.isfinite(actions).all():
        raise Refused(
            "bad_planned", f"planned actions have shape {actions.shape}, expected (n, {spec.layout.size}), all finite"
        )
    return PlannedActions(actions[: spec.trained_horizon], request.delay)
