"""Jobs of one slice: the saliency of a context, and what is done to a session."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch

from streaming_vla.engine.generation import flow_query
from streaming_vla.engine.jobs import Outcome, Priority, Work
from streaming_vla.engine.refused import Refused, checked, describe
from streaming_vla.engine.sessions import Session
from streaming_vla.engine.values import Reply, ResetResult
from streaming_vla.machines.events import SaliencyQuestion, SaliencyReply
from streaming_vla.policies.contract import DoubtingPolicy, FlowPolicy, PlanningPolicy
from streaming_vla.saliency.decision import SALIENCY_OF
from streaming_vla.saliency.plan import planned_switch

if TYPE_CHECKING:
    from streaming_vla.engine.engine import Engine

LOGGER = logging.getLogger(__name__)


class _OneSlice:
    """A job that one slice does."""

    def hold(self) -> Outcome:
        """Never asked: its time and its work are one slice."""
        raise NotImplementedError

    def timed(self, outcome: Outcome, seconds: float, end_s: float) -> None:
        """Its reply tells no times."""


class Saliency(_OneSlice):
    """Asks the policy for the saliency of a context: what it plans, or what its predictor expects to see."""

    priority = Priority.SALIENCY

    def __init__(self, engine: Engine, session: str, question: SaliencyQuestion, number: int) -> None:
        self._engine = engine
        self.session = session
        self._question, self._number = question, number
        self._did: Work | None = None

    @property
    def work(self) -> Work:
        """A plan that is not made yet takes as long as a flow step."""
        if self._did is not None:
            return self._did
        try:
            context = self._engine.sessions.find(self.session).context(self._question.episode, self._question.context)
        except Refused:
            return Work.LOOK_AHEAD
        makes_a_pass = self._question.of == "doubt" or (self._question.of == "plan" and context.plan is None)
        return Work.PLAN if makes_a_pass else Work.LOOK_AHEAD

    def run(self, now: float) -> Outcome:
        """Answer."""
        policy, question, work = self._engine.policy, self._question, self.work
        self._did = work
        try:
            with torch.inference_mode():
                found = self._doubt(now) if question.of == "doubt" else self._found()
            if not math.isfinite(found):
                raise ValueError(f"saliency is {found}")
        except Refused as refused:
            return Outcome(self.cancel(refused), refused=True)
        except Exception as error:
            LOGGER.exception("policy %s failed", policy.spec.name)
            what = f"policy {policy.spec.name} in saliency"
            return Outcome(self.cancel(Refused("policy_failed", describe(what, error))), refused=True)
        if work is Work.PLAN or question.of != "plan":
            self._engine.count_work(work)
        reply = SaliencyReply(question.episode, question.context, question.index, True, found)
        return Outcome([Reply(self.session, reply, self._number)])

    def _found(self) -> float:
        return answer(self._engine.policy, self._engine.sessions.find(self.session), self._question)

    def _doubt(self, now: float) -> float:
        """Return what the policy says of the next step of the context's flow."""
        policy = self._engine.policy
        if not getattr(policy, "doubts", False):
            raise Refused("no_doubt", f"policy {policy.spec.name} has not learned to doubt: set saliency_of to plan")
        flow = self._engine.grants(self.session).flow(self._question.context)
        if flow is None or flow.episode != self._question.episode:
            raise Refused("no_flow", f"no action of context {self._question.context} is asked for any more")
        query = flow_query(self._engine, self.session, flow, now)
        last = policy.spec.trained_horizon - 1
        return cast(DoubtingPolicy, policy).doubt(replace(query, index=min(query.index, last)))

    def cancel(self, refused: Refused) -> list[Reply]:
        """Answer with a refusal."""
        numbers = (self._question.episode, self._question.context, self._question.index)
        reply = SaliencyReply(*numbers, False, float("nan"), refused.code, refused.reason)
        return [Reply(self.session, reply, self._number)]


class Reset(_OneSlice):
    """Does something to a session between two slices of other jobs.

    Args:
        change: does it.
        number: of the request that is answered; None: nobody waits for an answer.
    """

    priority = Priority.RESET
    work = Work.RESET

    def __init__(self, engine: Engine, session: str, change: Callable[[], None], number: int | None) -> None:
        self.session = session
        self._change, self._number = change, number

    def run(self, now: float) -> Outcome:
        """Do it."""
        try:
            self._change()
        except Refused as refused:
            return Outcome(self.cancel(refused), refused=True)
        return Outcome([] if self._number is None else [Reply(self.session, ResetResult(True), self._number)])

    def cancel(self, refused: Refused) -> list[Reply]:
        """Answer with a refusal."""
        if self._number is None:
            return []
        return [Reply(self.session, ResetResult(False, refused.code, refused.reason), self._number)]


def answer(policy: FlowPolicy, session: Session, question: SaliencyQuestion) -> float:
    """Return the saliency that is asked for.

    Raises:
        Refused: a question that is not known, a context that is not kept, or one that this policy cannot answer.
    """
    spec = policy.spec
    if question.of not in SALIENCY_OF:
        raise Refused("bad_saliency_of", f"saliency of '{question.of}' is asked: choose {' or '.join(SALIENCY_OF)}")
    if question.of == "plan":
        saliency = _planned(policy, session, question)
    else:
        pending = checked("bad_pending", "sum of pending actions", spec.layout, question.pending)
        seen = session.context(question.episode, question.context).seen
        if seen is None:
            raise Refused("no_predictor", f"policy {spec.name} has no look-ahead predictor: set saliency_model")
        saliency = policy.look_ahead(seen, pending)
    return float(saliency)


def _planned(policy: FlowPolicy, session: Session, question: SaliencyQuestion) -> float:
    spec = policy.spec
    context = session.context(question.episode, question.context)
    if not 0 <= question.index < spec.trained_horizon:
        raise Refused("bad_index", f"action {question.index} begins, there are 0 to {spec.trained_horizon - 1}")
    if not hasattr(policy, "plan"):
        raise Refused("no_plan", f"policy {spec.name} does not say what it plans: set saliency_of to pictures")
    if not any(spec.layout.absolute):
        raise Refused("nothing_switches", f"policy {spec.name} has no absolute action: set saliency_of to pictures")
    if context.plan is None:  # it stays the same while the context is played
        context.plan = cast(PlanningPolicy, policy).plan(context.view, context.own)
    return planned_switch(context.plan, spec.layout.absolute, question.index)
