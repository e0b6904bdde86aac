"""The saliency of a context, asked of the policy: what it plans, or what its look-ahead predictor expects to see."""

from __future__ import annotations

from typing import cast

import numpy as np

from streaming_vla.engine.refused import Refused, checked
from streaming_vla.engine.sessions import Session
from streaming_vla.engine.values import SaliencyRequest
from streaming_vla.policies.contract import PlanningPolicy, StreamingPolicy
from streaming_vla.saliency.decision import SALIENCY_OF
from streaming_vla.saliency.plan import planned_switch


def must_plan(session: Session, request: SaliencyRequest) -> bool:
    """Tell whether the answer needs a plan that is not made yet.

    Raises:
        Refused: a context that is not kept.
    """
    return request.of == "plan" and session.context(request.episode, request.context).plan is None


def answer(policy: StreamingPolicy, session: Session, request: SaliencyRequest) -> float:
    """Return the saliency that is asked for.

    Raises:
        Refused: a question that is not known, a context that is not kept, or one that this policy cannot answer.
        ValueError: what the policy answers is no finite number.
    """
    spec = policy.spec
    if request.of not in SALIENCY_OF:
        raise Refused("bad_saliency_of", f"saliency of '{request.of}' is asked: choose {' or '.join(SALIENCY_OF)}")
    if request.of == "plan":
        saliency = _planned(policy, session, request)
    else:
        pending = checked("bad_pending", "sum of pending actions", spec.layout, request.pending)
        seen = session.context(request.episode, request.context).seen
        if seen is None:
            raise Refused("no_predictor", f"policy {spec.name} has no look-ahead predictor: set saliency_model")
        saliency = policy.look_ahead(seen, pending)
    if not np.isfinite(saliency):
        raise ValueError(f"saliency is {saliency}")
    return float(saliency)


def _planned(policy: StreamingPolicy, session: Session, request: SaliencyRequest) -> float:
    spec = policy.spec
    context = session.context(request.episode, request.context)
    if not 0 <= request.index < spec.trained_horizon:
        raise Refused("bad_index", f"action {request.index} begins, there are 0 to {spec.trained_horizon - 1}")
    if not hasattr(policy, "plan"):
        raise Refused("no_plan", f"policy {spec.name} does not say what it plans: set saliency_of to pictures")
    if not any(spec.layout.absolute):
        raise Refused("nothing_switches", f"policy {spec.name} has no absolute action: set saliency_of to pictures")
    if context.plan is None:  # it stays the same while the context is played
        context.plan = cast(PlanningPolicy, policy).plan(context.view)
    return planned_switch(context.plan, spec.layout.absolute, request.index)
