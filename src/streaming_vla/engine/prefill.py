"""The job that turns an observation into a context, slice by slice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from streaming_vla.engine.images import decode_all
from streaming_vla.engine.jobs import Outcome, Priority, Work
from streaming_vla.engine.refused import Refused, describe
from streaming_vla.engine.sessions import CachedContext, Session
from streaming_vla.engine.values import ContextReport, EncodedObservation, Refusal, Reply
from streaming_vla.policies.contract import (
    EMPTY_TOKEN,
    PolicyObservation,
    PolicySpec,
    PolicyUnavailable,
    Prefilled,
    Slices,
)

if TYPE_CHECKING:
    from streaming_vla.engine.engine import Engine

LOGGER = logging.getLogger(__name__)


class Prefill:
    """Takes the waiting observation of a robot when its turn comes, and prefills it slice by slice."""

    priority = Priority.PREFILL

    def __init__(self, engine: Engine, observation: EncodedObservation, asked_s: float) -> None:
        self._engine = engine
        self.observation = observation
        self.session = observation.session
        self.work = Work.PREFILL
        self.begun = False
        self._asked_s = asked_s
        self.steps_denoised = 0  # the one in work included
        self._compute_s = self._denoise_s = 0.0
        self._session: Session | None = None
        self._epoch = 0
        self._context: CachedContext | None = None  # that cannot be asked before the last slice is over
        self._slices: Iterator[Future[Any] | None] = self._work()
        self._wait: Future[Any] | None = None  # of the policy, before its next slice

    def supersede(self, observation: EncodedObservation, now: float) -> Reply:
        """Take a newer observation in the place of the one that waits; return the refusal of that one."""
        old, self.observation, self._asked_s = self.observation, observation, now
        sentence = f"observation {observation.sequence} of {old.session} came before {old.sequence} was begun"
        return refused_observation(old, Refused("superseded", sentence))

    def run(self, now: float) -> Outcome:
        """Do one slice: decode, each slice of the policy, the append, and what the policy does to complete it."""
        name = self._engine.policy.spec.name
        try:
            self._enter()
            if self._wait is not None and not self._wait.done():
                return Outcome(again=True, wait=self._wait)
            with torch.inference_mode():
                said = next(self._slices)
        except StopIteration:
            return Outcome()
        except Refused as refused:
            return Outcome(self.cancel(refused), refused=True)
        except PolicyUnavailable as error:
            LOGGER.error("policy %s: %s", name, error)
            return Outcome(self.cancel(Refused(error.code, f"policy {name}: {error}")), refused=True)
        except Exception as error:
            LOGGER.exception("policy %s failed", name)
            sentence = describe(f"policy {name} in {self.work.value}", error)
            return Outcome(self.cancel(Refused("policy_failed", sentence)), refused=True)
        self._wait = said if isinstance(said, Future) else None
        return Outcome(again=True, wait=self._wait)

    def hold(self) -> Outcome:
        """Take a slice's time without doing its work yet; from here on nothing takes the observation's place."""
        try:
            self._enter()
        except Refused as refused:
            return Outcome(self.cancel(refused), refused=True)
        return Outcome(again=True)

    def timed(self, outcome: Outcome, seconds: float, end_s: float) -> None:
        """Report when it is done."""
        self._compute_s += seconds
        self._denoise_s += seconds if self.steps_denoised else 0.0
        if not outcome.again:
            outcome.replies.append(Reply(self.session, self._report(end_s)))

    def over(self) -> None:
        """The last slice is over: by the pace the context exists from now on, whenever its work was done."""
        if self._context is not None:
            self._context.ready, self._context = True, None

    def cancel(self, refused: Refused) -> list[Reply]:
        """Answer that the observation will not be prefilled, and let go of a policy that is between two slices."""
        self._slices = iter(())
        if self._session is not None and self._context is not None:
            self._session.drop(self._context)
            self._context = None
        return [refused_observation(self.observation, refused)]

    def _enter(self) -> None:
        """Open the session with the first slice; refuse to go on when the observation is wanted no longer."""
        self.begun = True
        if self._session is None:
            session = self._engine.sessions.open(self.session)
            session.admit(self.observation.episode, self.observation.sequence)
            self._session, self._epoch = session, session.epoch
        self._check_still_wanted(self._session)

    def _work(self) -> Slices[None]:
        """Yield after each slice; the session changes at the append only."""
        engine, policy, session = self._engine, self._engine.policy, self._session
        assert session is not None, "the first slice has opened the session"
        spec, observation = policy.spec, self.observation
        seen = PolicyObservation(
            _pictures(observation, spec),
            _checked_state(observation, spec.state_size),
            observation.instruction,
            observation.pending,
            lambda: engine.grants(self.session).planned(observation.episode, observation.sequence),
        )
        yield None
        engine.count_work(Work.PREFILL)
        prefilled = yield from policy.prefill(seen, session.cache.view())
        _check_tokens(prefilled, spec.tokens_per_observation)
        yield None  # the append turns keys, which takes as long as a slice
        self._context = context = session.extend(observation.sequence, prefilled, ready=False)
        complete = getattr(policy, "complete", None)
        if complete is not None:
            self.work = Work.DENOISE
            yield None
            context.own = yield from self._counted(complete(seen, context.view, context.own))

    def _counted(self, slices: Slices[Any]) -> Slices[Any]:
        """Count the steps of denoising as they are done."""
        while True:
            self.steps_denoised += 1
            self._engine.count_work(Work.DENOISE)
            try:
                said = next(slices)
            except StopIteration as end:
                return end.value
            yield said

    def _check_still_wanted(self, session: Session) -> None:
        if session.epoch != self._epoch:
            sentence = f"{self.session} was reset while observation {self.observation.sequence} was worked on"
            raise Refused("reset", sentence)
        newest = self._engine.newest_waiting_episode(self.session, self)
        if newest > self.observation.episode:
            sentence = f"observation is of episode {self.observation.episode}, {self.session} is in {newest}"
            raise Refused("old_episode", sentence)

    def _report(self, end_s: float) -> ContextReport:
        assert self._session is not None, "a prefill that is done has opened its session"
        spec, stats = self._engine.policy.spec, self._session.cache.stats()
        return ContextReport(
            session=self.session,
            episode=self.observation.episode,
            sequence=self.observation.sequence,
            tokens=stats.tokens,
            execution_horizon=spec.execution_horizon,
            trained_horizon=spec.trained_horizon,
            prefill_s=self._compute_s,
            denoise_s=self._denoise_s,
            queued_s=max(0.0, end_s - self._asked_s - self._compute_s),
            flow_step_s=self._engine.flow_latency.smoothed_s or 0.0,
            stats=stats,
            trained_delay=spec.trained_delay,
            chunk=spec.chunk,
            history_from=self._session.history_from,
            remembers=self._session.cache.policy.remembers and spec.cache != EMPTY_TOKEN,
        )


def refused_observation(observation: EncodedObservation, refused: Refused) -> Reply:
    """Return the answer to an observation that is not prefilled."""
    refusal = Refusal(observation.session, observation.episode, observation.sequence, refused.code, refused.reason)
    return Reply(observation.session, refusal)


def _pictures(observation: EncodedObservation, spec: PolicySpec) -> npt.NDArray[np.uint8]:
    if observation.pictures is None:
        return decode_all(observation.images, spec.cameras, spec.image_size)
    expected = (len(spec.cameras), spec.image_size, spec.image_size, 3)
    if observation.pictures.shape != expected:
        raise Refused("image_size", f"pictures have shape {observation.pictures.shape}, the policy needs {expected}")
    return observation.pictures


def _check_tokens(prefilled: Prefilled, most: int) -> None:
    if not 1 <= prefilled.keys.shape[2] <= most:
        raise ValueError(f"it made {prefilled.keys.shape[2]} tokens, it declares at most {most}")


def _checked_state(observation: EncodedObservation, size: int) -> npt.NDArray[np.float32]:
    state = np.asarray(observation.state, dtype=np.float32)
    if state.shape != (size,):
        raise Refused("state_size", f"robot state has shape {state.shape}, the policy needs ({size},)")
    if not np.isfinite(state).all():
        raise Refused("state_not_finite", f"robot state is not finite: {state.tolist()}")
    return state
