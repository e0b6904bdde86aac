"""The job that turns an observation into a context, slice by slice."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator

import numpy as np
import numpy.typing as npt
import torch

from streaming_vla.engine.images import decode_all
from streaming_vla.engine.refused import Refused, describe
from streaming_vla.engine.request import CLOSED, Shared
from streaming_vla.engine.sessions import Session
from streaming_vla.engine.values import ContextReport, EncodedObservation, Refusal
from streaming_vla.engine.waiting import WaitingObservation
from streaming_vla.engine.worker import Priority
from streaming_vla.policies.contract import PolicyObservation

LOGGER = logging.getLogger(__name__)


class Prefill:
    """Takes the waiting observation of a session when its turn comes, and prefills it slice by slice."""

    priority = Priority.PREFILL

    def __init__(self, shared: Shared, session: str) -> None:
        self._shared = shared
        self._name = session
        self._compute_s = 0.0
        self._waiting: WaitingObservation | None = None
        self._begun: tuple[Session, int] | None = None  # the session and its epoch
        self._slices: Iterator[None] = iter(())

    def run(self) -> bool:
        """Do one slice: decode, each slice of the policy, and the append."""
        shared = self._shared
        begin_s = shared.clock()
        waiting = self._waiting
        if waiting is None:
            waiting = self._waiting = shared.waiting.take(self._name)
            if waiting is None:  # a reset has taken it out
                return False
            self._slices = self._work(waiting.observation)
        try:
            self._check_still_wanted(waiting.observation)
            with torch.inference_mode():
                next(self._slices)
        except StopIteration as end:
            self._compute_s += shared.clock() - begin_s
            self._report(waiting, end.value)
            return False
        except Refused as refused:
            self._refuse(waiting, refused)
            return False
        except Exception as error:
            LOGGER.exception("policy %s failed", shared.policy.spec.name)
            what = f"policy {shared.policy.spec.name} in prefill"
            self._refuse(waiting, Refused("policy_failed", describe(what, error)))
            return False
        self._compute_s += shared.clock() - begin_s
        return True

    def cancel(self) -> None:
        """The engine is closed."""
        waiting = self._waiting or self._shared.waiting.take(self._name)
        if waiting is not None:
            self._refuse(waiting, CLOSED)

    def _work(self, observation: EncodedObservation) -> Generator[None, None, Session]:
        """Yield after each slice; the session changes in the first and the last one only."""
        shared, spec = self._shared, self._shared.policy.spec
        session = shared.sessions.open(self._name)
        session.admit(observation.episode, observation.sequence)
        self._begun = session, session.epoch
        seen = PolicyObservation(
            decode_all(observation.images, spec.cameras, spec.image_size),
            _checked_state(observation, spec.state_size),
            observation.instruction,
        )
        yield
        prefilled = yield from shared.policy.prefill(seen, session.cache.view())
        if prefilled.keys.shape[2] != spec.tokens_per_observation:
            raise ValueError(f"it made {prefilled.keys.shape[2]} tokens, it declares {spec.tokens_per_observation}")
        yield  # the append turns keys, which takes as long as a slice
        session.extend(observation.sequence, prefilled)
        return session

    def _check_still_wanted(self, observation: EncodedObservation) -> None:
        if self._begun is not None and self._begun[0].epoch != self._begun[1]:
            raise Refused("reset", f"{self._name} was reset while observation {observation.sequence} was worked on")
        newest = self._shared.waiting.newest_episode(self._name)
        if newest > observation.episode:
            raise Refused(
                "old_episode", f"observation is of episode {observation.episode}, {self._name} is in {newest}"
            )

    def _report(self, waiting: WaitingObservation, session: Session) -> None:
        shared, spec, observation = self._shared, self._shared.policy.spec, waiting.observation
        stats = session.cache.stats()
        report = ContextReport(
            session=self._name,
            episode=observation.episode,
            sequence=observation.sequence,
            tokens=stats.tokens,
            execution_horizon=spec.execution_horizon,
            trained_horizon=spec.trained_horizon,
            prefill_s=self._compute_s,
            queued_s=max(0.0, shared.clock() - waiting.since_s - self._compute_s),
            flow_step_s=shared.flow_latency.smoothed_s or 0.0,
            stats=stats,
        )
        shared.replies.send("served.prefill", waiting.done, report)

    def _refuse(self, waiting: WaitingObservation, refused: Refused) -> None:
        refuse_observation(self._shared, waiting, refused)
        self._slices = iter(())  # lets go of a policy that is between two slices


def refuse_observation(shared: Shared, waiting: WaitingObservation, refused: Refused) -> None:
    """Answer that an observation will not be prefilled."""
    observation = waiting.observation
    refusal = Refusal(observation.session, observation.episode, observation.sequence, refused.code, refused.reason)
    shared.replies.send(refused.code, waiting.done, refusal)


def _checked_state(observation: EncodedObservation, size: int) -> npt.NDArray[np.float32]:
    state = np.asarray(observation.state, dtype=np.float32)
    if state.shape != (size,):
        raise Refused("state_size", f"robot state has shape {state.shape}, the policy needs ({size},)")
    if not np.isfinite(state).all():
        raise Refused("state_not_finite", f"robot state is not finite: {state.tolist()}")
    return state
