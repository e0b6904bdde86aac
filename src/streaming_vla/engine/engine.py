"""The engine: one policy that serves several robots, one queue of jobs, one slice at a time.

It has no thread and no clock: whoever drives it hands it requests, calls `poll` when `deadline` has come and sends the
replies. In ROS thread.py does, on the virtual clock the world.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from streaming_vla.engine.generation import Flow, Generation, Grants, refusal
from streaming_vla.engine.jobs import Job, JobQueue, Outcome, Work
from streaming_vla.engine.options import EngineOptions
from streaming_vla.engine.pace import Pace
from streaming_vla.engine.prefill import Prefill, refused_observation
from streaming_vla.engine.question import Reset, Saliency
from streaming_vla.engine.refused import Refused
from streaming_vla.engine.sessions import Sessions, check_fit
from streaming_vla.engine.values import ContextReport, EncodedObservation, Reply, ResetResult
from streaming_vla.machines.events import GeneratedAction, GenerateRequest, SaliencyQuestion, SaliencyReply
from streaming_vla.machines.latency import LatencyTracker
from streaming_vla.policies.contract import FlowPolicy

LOGGER = logging.getLogger(__name__)
NEVER_S = float("inf")
NOW_S = float("-inf")
MAX_REQUESTS = 8  # questions or resets of one robot that wait; it has one or two in flight
SERVED = {
    ContextReport: "served.prefill",
    GeneratedAction: "served.generate",
    SaliencyReply: "served.saliency",
    ResetResult: "served.reset",
}
CLOSED = Refused("closed", "the engine was closed before it came to this request")


@dataclass
class _Lane:
    """A part of the hardware that does one slice at a time."""

    job: Job | None = None
    end_s: float = NEVER_S
    outcome: Outcome = field(default_factory=Outcome)


class Engine:
    """Serves observations and requests; replies come from `poll`, refusals of what is malformed too.

    Order of work: reset, generation, saliency, prefill. A prefill advances one slice at a time, so that no generation
    waits for more than a slice. What cannot be served is refused with a code, which is counted, and a sentence; an
    error in the policy is such a refusal. Requests may come from any thread, `poll` is called by one.

    Args:
        policy: the model.
        options: cache and sessions.
        pace: how long work takes; None: as long as it does on this machine.
        stopwatch: seconds of the work itself; of a virtual clock it stands still.
        wait_for_futures: block in `poll` for what the policy waits for, as a virtual clock has to.

    Raises:
        ValueError: an observation of the policy does not fit into what its cache keeps.
        MemoryError: the sessions' caches would be too large.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        options: EngineOptions,
        pace: Pace | None = None,
        stopwatch: Callable[[], float] = time.perf_counter,
        wait_for_futures: bool = False,
    ) -> None:
        self.policy = policy
        self.sessions = Sessions(policy.spec, options)
        self.flow_latency = LatencyTracker(warm_up=1 if pace is None else 0)
        self.worked: Counter[Work] = Counter()  # how often each kind of work was done
        self.later_than_paced = 0  # slices that took longer here than they should
        self.lock = threading.RLock()  # of what requests and work share; never held while the policy works
        self.on_work: Callable[[], None] = lambda: None  # called when there is something new to do
        self._pace, self._stopwatch, self._blocks = pace, stopwatch, wait_for_futures
        self._queue = JobQueue()
        self._grants: dict[str, Grants] = {}
        self._generating: set[str] = set()  # sessions whose generation is queued or in work
        self._replies: list[Reply] = []  # that need no work
        self._left_s: dict[Job, list[float]] = {}  # slices of a paced prefill
        self._parked: dict[Job, float] = {}  # waiting for a future, since when
        self._slice_since_s = NEVER_S  # when the slice in work was begun
        self._lanes = [_Lane(), _Lane()] if pace is not None and pace.beside else [_Lane()]
        self._counts: Counter[str] = Counter()
        self._closed = False

    def counts(self) -> dict[str, int]:
        """Return how often each code was answered: served.generate, old_episode, ... From any thread."""
        with self.lock:
            return dict(sorted(self._counts.items()))

    def retune(self, options: EngineOptions) -> None:
        """Go on with another budget or threshold of the cache; sessions keep what they hold. From any thread.

        Raises:
            ValueError: the options do not fit the policy, or differ in more than that.
            MemoryError: the sessions' caches would be too large.
        """
        check_fit(self.policy.spec, options)
        self.sessions.check_retune(options)
        self._submit(Reset(self, "", lambda: self.sessions.retune(options), None))

    def observe(self, observation: EncodedObservation, now: float) -> None:
        """Prefill an observation into its session. One waits per session; a newer one takes its place."""
        with self.lock:
            waiting = self._waiting_prefill(observation.session)
            if waiting is None:
                self._submit(Prefill(self, observation, now))
            elif _age(observation) > _age(waiting.observation):
                self._answer(waiting.supersede(observation, now))
            else:
                code = "old_episode" if observation.episode < waiting.observation.episode else "old_sequence"
                sentence = (
                    f"observation {observation.sequence} of episode {observation.episode} of {observation.session} "
                    f"comes after observation {waiting.observation.sequence} of episode {waiting.observation.episode}"
                )
                self._answer(refused_observation(observation, Refused(code, sentence)))

    def generate(self, session: str, request: GenerateRequest, now: float) -> None:
        """Let a robot have the actions of a context that it asks for, each as soon as it exists."""
        with self.lock:
            try:
                self.grants(session).take(request, self.sessions.get(session), self.policy.spec, now)
            except Refused as refused:
                denied = refusal(request.episode, request.context, request.revision, request.step, refused)
                self._answer(Reply(session, denied))
                return
            self._generate(session)

    def predict_saliency(self, session: str, question: SaliencyQuestion, number: int) -> None:
        """Ask the policy for the saliency of a context; the reply carries `number`."""
        self._submit_bounded(Saliency(self, session, question, number))

    def reset(self, session: str, episode: int, number: int) -> None:
        """Forget the session's history and begin `episode`; any number is taken, so that a wrong one can be undone."""
        self._submit_bounded(Reset(self, session, lambda: self._reset(session, episode), number))

    def poll(self, now: float) -> list[Reply]:
        """Do what is due, at most one slice; return what goes out."""
        with self.lock:
            replies, self._replies = self._replies, []
        for lane in self._lanes:
            if lane.job is not None and lane.end_s <= now:
                replies += self._end(lane, now)
        for number, lane in enumerate(self._lanes):
            if lane.job is None:
                self._begin(lane, number, now)
                if lane.job is not None and lane.end_s <= now:
                    replies += self._end(lane, now)
        return replies

    def deadline(self) -> float:
        """Return when `poll` must be called next, seconds: minus infinity is at once, infinity at the next request."""
        with self.lock:
            if self._replies:
                return NOW_S
            for number, lane in enumerate(self._lanes):
                if lane.job is None and self._queue.has(partial(self._is_of, number)):
                    return NOW_S
            return min(lane.end_s for lane in self._lanes)

    def working_since(self) -> float:
        """Return when the oldest slice was begun that the policy has not ended, infinity: none. From any thread."""
        with self.lock:
            return min([self._slice_since_s, *self._parked.values()])

    def close(self) -> list[Reply]:
        """Refuse what waits, now and from now on; return the refusals."""
        with self.lock:
            self._closed = True
            jobs = [*self._queue.waiting(), *self._parked, *(lane.job for lane in self._lanes if lane.job is not None)]
            self._queue, self._parked = JobQueue(), {}
            self._generating.clear()
            for lane in self._lanes:
                lane.job, lane.end_s = None, NEVER_S
            for job in jobs:
                for reply in job.cancel(CLOSED):
                    self._answer(reply)
            replies, self._replies = self._replies, []
            return replies

    # for the jobs

    def grants(self, session: str) -> Grants:
        """Return what a robot has granted."""
        return self._grants.setdefault(session, Grants())

    def next_flow(self, session: str) -> Flow | None:
        """Return the flow of a robot whose next step is granted and can be done, or None."""
        with self.lock:
            return self.grants(session).next(self.sessions.get(session))

    def waiting(self, kind: type[Job]) -> list[Job]:
        """Return the jobs of a kind that wait, the first one first."""
        with self.lock:
            return [job for job in self._queue.waiting() if isinstance(job, kind)]

    def newest_waiting_episode(self, session: str, but: Job) -> int:
        """Return the episode of the observation of a session that waits beside the job `but`, -1 when none does."""
        waiting = self._waiting_prefill(session)
        return -1 if waiting is None or waiting is but else waiting.observation.episode

    def count_work(self, work: Work, times: int = 1) -> None:
        """Count what the policy is asked to do."""
        self.worked[work] += times

    # inside

    def _reset(self, session: str, episode: int) -> None:
        self.sessions.open(session).begin(episode)
        self._grants.pop(session, None)
        late = self._waiting_prefill(session)
        if late is not None and late.observation.episode != episode:  # it would begin its own episode again
            sentence = f"{session} was reset to episode {episode} before observation was begun"
            with self.lock:
                self._queue.pop(lambda job: job is late)
                for reply in late.cancel(Refused("reset", sentence)):
                    self._answer(reply)

    def _waiting_prefill(self, session: str) -> Prefill | None:
        """Return the prefill of a session that has not begun."""
        with self.lock:
            for job in self._queue.waiting():
                if isinstance(job, Prefill) and job.session == session and not job.begun:
                    return job
        return None

    def _generate(self, session: str) -> None:
        """Queue the generation of a session when it has something to do and is not queued."""
        with self.lock:
            if session not in self._generating and self.next_flow(session) is not None:
                self._generating.add(session)
                self._submit(Generation(self, session))

    def _submit_bounded(self, job: Job) -> None:
        with self.lock:
            same = [w for w in self._queue.waiting() if w.session == job.session and w.priority is job.priority]
            if len(same) < MAX_REQUESTS:
                self._submit(job)
                return
            kind = job.work.value
            sentence = f"{MAX_REQUESTS} requests of kind {kind} of {job.session} are waiting already"
            for reply in job.cancel(Refused("too_many_waiting", sentence)):
                self._answer(reply)

    def _submit(self, job: Job) -> None:
        with self.lock:
            if self._closed:
                for reply in job.cancel(CLOSED):
                    self._answer(reply)
                return
            self._queue.put(job)
        self.on_work()

    def _answer(self, reply: Reply) -> None:
        """Send what needs no work."""
        with self.lock:
            self._count(reply)
            self._replies.append(reply)
        self.on_work()

    def _count(self, reply: Reply) -> None:
        value = reply.value
        served = isinstance(value, ContextReport) or getattr(value, "accepted", False)
        self._counts[SERVED[type(value)] if served else value.code] += 1  # type: ignore[union-attr]

    def _is_of(self, lane: int, job: Job) -> bool:
        """True when a lane does a job: with two, the second one does prefills."""
        return len(self._lanes) == 1 or lane == int(job.work is Work.PREFILL)

    def _begin(self, lane: _Lane, number: int, now: float) -> None:
        """Begin the first slice of a lane that is free."""
        while True:
            with self.lock:
                lane.job = job = self._queue.pop(lambda job: self._is_of(number, job))
            if job is None:
                return
            begin_s, self._slice_since_s = self._stopwatch(), now
            outcome, paced_s = self._slice(job, now)
            seconds, self._slice_since_s = max(paced_s, self._stopwatch() - begin_s), NEVER_S
            self.later_than_paced += int(0.0 < paced_s < seconds)
            if outcome.nothing:
                self._let_go(lane)
                continue
            lane.outcome = outcome
            lane.end_s = now + paced_s if self._pace is not None else now
            job.timed(outcome, seconds, now + seconds)
            return

    def _slice(self, job: Job, now: float) -> tuple[Outcome, float]:
        """Do a slice of a job; return what it led to and how long it takes by the pace, seconds.

        The slices of a prefill whose number a profile tells take their time one by one, and the work of all of them is
        done in the last one.
        """
        if self._pace is None:
            return job.run(now), 0.0
        if job.work is not Work.PREFILL:
            due = not isinstance(job, Generation) or self._due(job)
            seconds = self._pace.slices_s(job, now)[0] if due else 0.0
            return job.run(now), seconds
        if job not in self._left_s:
            self._left_s[job] = self._pace.slices_s(job, now)
        seconds = self._left_s[job].pop(0)
        if self._left_s[job]:
            return job.hold(), seconds
        outcome = job.run(now)
        while outcome.again and job.work is Work.PREFILL and (outcome.wait is None or self._blocks):
            if outcome.wait is not None:
                outcome.wait.exception()
            outcome = job.run(now)
        del self._left_s[job]
        if outcome.wait is not None:
            self._left_s[job] = [0.0]  # its time is over, what it waits for is not there yet
        return outcome, seconds

    def _due(self, job: Generation) -> bool:
        return self.next_flow(job.session) is not None

    def _let_go(self, lane: _Lane) -> None:
        """A generation had nothing to do; what was granted in that moment is done after all."""
        with self.lock:
            job, lane.job = lane.job, None
            assert job is not None, "a lane that has begun a slice has a job"
            self._generating.discard(job.session)
            self._generate(job.session)

    def _end(self, lane: _Lane, now: float) -> list[Reply]:
        """End the slice of a lane: return its replies, and queue what goes on."""
        job, outcome = lane.job, lane.outcome
        assert job is not None, "a lane that ends a slice has a job"
        with self.lock:
            lane.job, lane.end_s = None, NEVER_S
            if not outcome.again:
                self._queue.forget(job)
            elif outcome.wait is not None and not outcome.wait.done():
                self._parked[job] = now
                outcome.wait.add_done_callback(lambda _done: self._unpark(job))
            else:
                self._queue.put(job)
            for reply in outcome.replies:
                self._count(reply)
            if not outcome.again:
                if isinstance(job, Generation):
                    self._generating.discard(job.session)
                self._generate(job.session)  # granted before a context existed, or while a generation ended
        return outcome.replies

    def _unpark(self, job: Job) -> None:
        with self.lock:
            if job not in self._parked:
                return
            del self._parked[job]
            self._queue.put(job)
        self.on_work()


def _age(observation: EncodedObservation) -> tuple[int, int]:
    """Return episode and sequence: larger is newer."""
    return observation.episode, observation.sequence
