"""Generation: the job that does the steps that a robot has granted, one by one."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from kv_cache.cache import CacheView
from streaming_vla.engine.grants import Flow, refusal
from streaming_vla.engine.jobs import Outcome, Priority, Work
from streaming_vla.engine.refused import Refused, describe
from streaming_vla.engine.values import Reply
from streaming_vla.machines.events import GeneratedAction
from streaming_vla.policies.contract import FlowPolicy, FlowQuery
from streaming_vla.policies.layout import Vector

if TYPE_CHECKING:
    from streaming_vla.engine.engine import Engine

LOGGER = logging.getLogger(__name__)


class Generation:
    """The job of one robot's generation: a slice is one step of a flow.

    Steps of other robots that wait and fit into the same pass go with it.
    """

    priority = Priority.GENERATE

    def __init__(self, engine: Engine, session: str) -> None:
        self._engine = engine
        self.session = session
        self.work = Work.ROW if engine.policy.spec.chunk else Work.FLOW_STEP
        self._done: list[tuple[str, Flow, GeneratedAction]] = []  # without the time that it took

    @property
    def newest(self) -> tuple[int, int]:
        """Context and step of the newest slice."""
        _, _, action = self._done[0]
        return action.context, action.step

    def run(self, now: float) -> Outcome:
        """Do the next step of this robot and of those that fit to it."""
        engine, policy = self._engine, self._engine.policy
        own = engine.next_flow(self.session)
        if own is None:  # cancelled meanwhile, or done along with another robot's
            return Outcome(nothing=True)
        asked = [(self.session, own, flow_query(self._engine, self.session, own, now))]
        if hasattr(policy, "flow_steps"):
            asked += self._fitting(asked[0][2].view, now)
        begin_s = engine.stopwatch()
        found = self._steps(policy, [query for _, _, query in asked])
        policy_s = engine.stopwatch() - begin_s
        self._done = [
            (session, flow, self._action(session, flow, values, now))
            for (session, flow, _), values in zip(asked, found, strict=True)
        ]
        return Outcome(again=engine.next_flow(self.session) is not None, policy_s=policy_s)

    def timed(self, outcome: Outcome, seconds: float, end_s: float) -> None:
        """Say how long the step took; the next one of these flows can be done from its end on."""
        if all(action.accepted for _, _, action in self._done):
            self._engine.flow_latency.add(seconds)
        for _, flow, _ in self._done:
            flow.asked_s = end_s
        outcome.replies = [Reply(session, _timed(action, seconds)) for session, _, action in self._done]

    def hold(self) -> Outcome:
        """Never asked: a step is one slice."""
        raise NotImplementedError

    def cancel(self, refused: Refused) -> list[Reply]:
        """Answer what was granted with a refusal."""
        flow = self._engine.next_flow(self.session)
        return [] if flow is None else [Reply(self.session, self._refusal(self.session, flow, refused))]

    def _fitting(self, view: CacheView, now: float) -> list[tuple[str, Flow, FlowQuery]]:
        """Return the next steps of the other robots that wait and can go with a step of `view`."""
        found = []
        for job in self._engine.take_waiting(Generation):
            flow = self._engine.next_flow(job.session)
            if flow is None:
                continue
            query = flow_query(self._engine, job.session, flow, now)
            if _fit(query.view, view):
                found.append((job.session, flow, query))
            self._engine.submit(job)  # because it does not fit, or for the step behind this one
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
        return refusal(flow, refused)


def flow_query(engine: Engine, session: str, flow: Flow, now: float) -> FlowQuery:
    """Return the next step of a flow as the policy is asked for it.

    Raises:
        Refused: its context is no longer kept.
    """
    context = engine.sessions.find(session).context(flow.episode, flow.context)
    robot, pending = engine.grants(session).robot(flow)
    state, age_s = None, math.nan
    if robot is not None:
        state, age_s = robot.values.astype(np.float32), now - robot.measured_s
    else:  # the policy has the picture's state, behind which lies what this flow has given
        pending = flow.position - flow.begun
    if pending is not None:
        pending = np.where(engine.policy.spec.layout.absolute, flow.position, pending)
    where = (flow.first, flow.begun)
    return FlowQuery(context.view, flow.position, flow.step, context.own, state, age_s, pending, *where)


def _timed(action: GeneratedAction, seconds: float) -> GeneratedAction:
    """Return an action with its model time; dataclasses.replace takes several times as long."""
    return GeneratedAction(
        action.episode,
        action.context,
        action.revision,
        action.step,
        action.accepted,
        action.values,
        action.code,
        action.reason,
        seconds,
        action.queued_s,
    )


def _fit(view: CacheView, other: CacheView) -> bool:
    """Tell whether two contexts fit into one pass."""
    return view.tokens == other.tokens and view.next_position == other.next_position
