"""Flow steps: the oldest is served first, and those of other robots that fit into the same pass go with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kv_cache.cache import CacheView
from streaming_vla.engine.refused import Refused, checked, describe
from streaming_vla.engine.request import CLOSED, Shared
from streaming_vla.engine.values import FlowResult
from streaming_vla.engine.worker import Priority
from streaming_vla.machines.events import FlowRequest
from streaming_vla.policies.contract import FlowQuery, StreamingPolicy
from streaming_vla.policies.layout import Vector

LOGGER = logging.getLogger(__name__)

Outcome = Vector | Refused


@dataclass(frozen=True, eq=False)
class Asked:
    """A flow step that waits, who waits for it, and since when (seconds)."""

    session: str
    request: FlowRequest
    done: Callable[[FlowResult], None]
    since_s: float


class FlowSteps:
    """What waits for a flow step, of all robots. Steps are added from any thread and served on the worker's."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._waiting: list[Asked] = []

    def add(self, asked: Asked) -> FlowTurn:
        """Let a step wait; the turn that is returned serves the oldest that waits then, and whoever fits to it."""
        with self._lock:
            self._waiting.append(asked)
        return FlowTurn(self)

    def serve(self) -> None:
        """Serve the oldest step and those of other contexts with as many tokens; refuse what cannot be served."""
        with self._lock:
            waiting = tuple(self._waiting)
        group: list[tuple[Asked, FlowQuery]] = []
        refused: list[tuple[Asked, Refused]] = []
        for asked in waiting:
            try:
                query = self._query(asked)
            except Refused as why:
                refused.append((asked, why))
                continue
            if not group or (hasattr(self._shared.policy, "flow_steps") and _fit(query.view, group[0][1].view)):
                group.append((asked, query))
        self._leave([asked for asked, _ in (*refused, *group)])
        for asked, refusal in refused:
            self._answer(asked, refusal, self._shared.clock(), 0.0)
        if group:
            begin_s = self._shared.clock()
            outcomes = self._do([query for _, query in group])
            compute_s = self._shared.clock() - begin_s
            if not any(isinstance(outcome, Refused) for outcome in outcomes):
                self._shared.flow_latency.add(compute_s)
            for (asked, _), outcome in zip(group, outcomes, strict=True):
                self._answer(asked, outcome, begin_s, compute_s)

    def cancel(self) -> None:
        """The engine is closed: refuse the oldest."""
        with self._lock:
            asked = self._waiting.pop(0) if self._waiting else None
        if asked is not None:
            self._shared.waiting.leave(asked.session, Priority.FLOW_STEP)
            self._answer(asked, CLOSED, self._shared.clock(), 0.0)

    def _query(self, asked: Asked) -> FlowQuery:
        """Return what the policy is asked.

        Raises:
            Refused: no such context, step, or flow state.
        """
        spec, request = self._shared.policy.spec, asked.request
        view = self._shared.sessions.find(asked.session).context(request.episode, request.context).view
        if not 0 <= request.index < spec.trained_horizon:
            raise Refused(
                "bad_index",
                f"step {request.index} of the flow is asked for, there are 0 to {spec.trained_horizon - 1}",
            )
        return FlowQuery(view, checked("bad_position", "flow state", spec.layout, request.position), request.index)

    def _do(self, queries: list[FlowQuery]) -> list[Outcome]:
        policy = self._shared.policy
        try:
            with torch.inference_mode():
                found = _steps(policy, queries)
        except Exception as error:
            LOGGER.exception("policy %s failed", policy.spec.name)
            failed = Refused("policy_failed", describe(f"policy {policy.spec.name} in flow_step", error))
            return [failed] * len(queries)
        return [self._checked(values) for values in found]

    def _checked(self, values: Vector) -> Outcome:
        spec = self._shared.policy.spec
        try:
            return spec.layout.check(values)
        except Exception as error:  # a policy may return anything
            LOGGER.error("policy %s failed: %s", spec.name, error)
            return Refused("policy_failed", describe(f"policy {spec.name} in flow_step", error))

    def _leave(self, served: Sequence[Asked]) -> None:
        with self._lock:
            self._waiting = [asked for asked in self._waiting if asked not in served]
        for asked in served:
            self._shared.waiting.leave(asked.session, Priority.FLOW_STEP)

    def _answer(self, asked: Asked, outcome: Outcome, begin_s: float, compute_s: float) -> None:
        self._shared.replies.send(*answered(outcome, compute_s, begin_s - asked.since_s, asked.done))


class FlowTurn:
    """The worker's turn for flow steps."""

    priority = Priority.FLOW_STEP

    def __init__(self, steps: FlowSteps) -> None:
        self._steps = steps

    def run(self) -> bool:
        """Serve the oldest and those that fit; nothing when they went along with an earlier one."""
        self._steps.serve()
        return False

    def cancel(self) -> None:
        """The engine is closed."""
        self._steps.cancel()


def answered(
    outcome: Outcome, compute_s: float, queued_s: float, done: Callable[[FlowResult], None]
) -> tuple[str, Callable[[FlowResult], None], FlowResult]:
    """Return the code that is counted, who gets the answer, and the answer."""
    if isinstance(outcome, Refused):
        return outcome.code, done, FlowResult(False, outcome.code, outcome.reason, np.zeros(0), 0.0, queued_s)
    return "served.flow_step", done, FlowResult(True, "", "", outcome, compute_s, queued_s)


def _fit(view: CacheView, other: CacheView) -> bool:
    """Tell whether two contexts fit into one pass."""
    return view.tokens == other.tokens and view.next_position == other.next_position


def _steps(policy: StreamingPolicy, queries: list[FlowQuery]) -> list[Vector]:
    if len(queries) == 1:
        return [policy.flow_step(queries[0].view, queries[0].position, queries[0].index)]
    together: list[Vector] = policy.flow_steps(queries)  # type: ignore[attr-defined] # only then there are several
    if len(together) != len(queries):
        raise ValueError(f"flow_steps returned {len(together)} actions, expected {len(queries)}: one for every query")
    return together
