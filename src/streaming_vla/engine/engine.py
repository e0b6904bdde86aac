"""The engine: one policy that serves several robots, one queue of jobs, one slice at a time.

It has no thread and no clock: whoever drives it hands it requests, calls `poll` when `deadline` has come and sends the
replies. In ROS thread.py does, on the virtual clock the world.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from streaming_vla.engine.generation import Generation
from streaming_vla.engine.grants import Flow, Grants, refusal
from streaming_vla.engine.jobs import Job, Outcome, Work
from streaming_vla.engine.lanes import NOW_S, Lanes
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

MAX_REQUESTS = 8  # questions or resets of one robot that wait; it has one or two in flight
MAX_GRANTS = 64  # requests of one robot to generate that come during a slice
SERVED = {
    ContextReport: "served.prefill",
    GeneratedAction: "served.generate",
    SaliencyReply: "served.saliency",
    ResetResult: "served.reset",
}
CLOSED = Refused("closed", "the engine was closed before it came to this request")


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
        self.policy, self.stopwatch = policy, stopwatch
        self.sessions = Sessions(policy.spec, options)
        self.flow_latency = LatencyTracker(warm_up=1 if pace is None else 0)
        self.worked: Counter[Work] = Counter()  # how often each kind of work was done
        self.on_work: Callable[[], None] = lambda: None  # called when there is something new to do
        self._lock = threading.RLock()  # of what comes on other threads; never held while the policy works
        self._lanes = Lanes(pace, stopwatch, wait_for_futures, self._lock, lambda: self.on_work())  # noqa: PLW0108 (it is set later)
        self._arrived: list[tuple[str, GenerateRequest, float]] = []  # and when
        self._grants: dict[str, Grants] = {}
        self._replies: list[Reply] = []  # that need no work
        self._counts: Counter[str] = Counter()
        self._closed = False

    @property
    def later_than_paced(self) -> int:
        """How many slices took longer on this machine than the pace says."""
        return self._lanes.later_than_paced

    def counts(self) -> dict[str, int]:
        """Return how often each code was answered: served.generate, old_episode, ... From any thread."""
        with self._lock:
            return dict(sorted(self._counts.items()))

    def retune(self, options: EngineOptions) -> None:
        """Go on with another budget or threshold of the cache; sessions keep what they hold. From any thread.

        Raises:
            ValueError: the options do not fit the policy, or differ in more than that.
            MemoryError: the sessions' caches would be too large.
        """
        check_fit(self.policy.spec, options)
        self.sessions.check_retune(options)
        self.submit(Reset(self, "", lambda: self.sessions.retune(options), None))

    def observe(self, observation: EncodedObservation, now: float) -> None:
        """Prefill an observation into its session. One waits per session; a newer one takes its place."""
        with self._lock:
            waiting = self._waiting_prefill(observation.session)
            if waiting is None:
                self.submit(Prefill(self, observation, now))
                self._lanes.wake(observation.session)  # it may be of a newer episode
            elif _age(observation) > _age(waiting.observation):
                self._answer(waiting.supersede(observation, now))
                self._lanes.wake(observation.session)
            else:
                code = "old_episode" if observation.episode < waiting.observation.episode else "old_sequence"
                sentence = (
                    f"observation {observation.sequence} of episode {observation.episode} of {observation.session} "
                    f"comes after observation {waiting.observation.sequence} of episode {waiting.observation.episode}"
                )
                self._answer(refused_observation(observation, Refused(code, sentence)))

    def generate(self, session: str, request: GenerateRequest, now: float) -> None:
        """Let a robot have the actions of a context that it asks for, each as soon as it exists."""
        with self._lock:
            waiting = sum(name == session for name, _, _ in self._arrived)
            if self._closed or waiting >= MAX_GRANTS:
                sentence = f"{waiting} requests to generate of {session} are waiting already"
                refused = CLOSED if self._closed else Refused("too_many_waiting", sentence)
                self._answer(Reply(session, refusal(request, refused)))
                return
            self._arrived.append((session, request, now))
        self.on_work()

    def predict_saliency(self, session: str, question: SaliencyQuestion, number: int) -> None:
        """Ask the policy for the saliency of a context; the reply carries `number`."""
        self._submit_bounded(Saliency(self, session, question, number))

    def reset(self, session: str, episode: int, number: int) -> None:
        """Forget the session's history and begin `episode`; any number is taken, so that a wrong one can be undone."""
        self._submit_bounded(Reset(self, session, lambda: self._reset(session, episode), number))

    def poll(self, now: float) -> list[Reply]:
        """Do what is due, at most one slice (two where a prefill has hardware of its own); return what goes out."""
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for session, request, asked_s in arrived:
            self._take(session, request, asked_s)
        with self._lock:
            replies, self._replies = self._replies, []
        for job, outcome in self._lanes.work(now):
            replies += self._ended(job, outcome, now)
        return replies

    def deadline(self) -> float:
        """Return when `poll` must be called next, seconds: minus infinity is at once, infinity at the next request."""
        with self._lock:
            return NOW_S if self._replies or self._arrived else self._lanes.deadline()

    def working_since(self) -> float:
        """Return when the oldest slice was begun that the policy has not ended, infinity: none. From any thread."""
        return self._lanes.working_since()

    def close(self) -> list[Reply]:
        """Refuse what waits, now and from now on; return the refusals."""
        with self._lock:
            self._closed = True
            for session, request, _ in self._arrived:
                self._answer(Reply(session, refusal(request, CLOSED)))
            for job in self._lanes.clear():
                for reply in job.cancel(CLOSED):
                    self._answer(reply)
            replies, self._replies, self._arrived = self._replies, [], []
            return replies

    # for the jobs

    def grants(self, session: str) -> Grants:
        """Return what a robot has granted."""
        return self._grants.setdefault(session, Grants())

    def next_flow(self, session: str) -> Flow | None:
        """Return the flow of a robot whose next step is granted and can be done, or None."""
        granted = self._grants.get(session)
        return None if granted is None else granted.next(self.sessions.get(session))

    def submit(self, job: Job) -> None:
        """Queue a job; on an engine that is closed it is refused."""
        with self._lock:
            if self._closed:
                for reply in job.cancel(CLOSED):
                    self._answer(reply)
                return
            self._lanes.queue.put(job)
        self.on_work()

    def take_waiting(self, kind: type[Job]) -> list[Job]:
        """Return the jobs of a kind that wait, the first one first; they wait no longer."""
        with self._lock:
            found = []
            while (job := self._lanes.queue.pop(lambda job: isinstance(job, kind))) is not None:
                found.append(job)
            return found

    def newest_waiting_episode(self, session: str, but: Job) -> int:
        """Return the episode of the observation of a session that waits beside the job `but`, -1 when none does."""
        waiting = self._waiting_prefill(session)
        return -1 if waiting is None or waiting is but else waiting.observation.episode

    def count_work(self, work: Work, times: int = 1) -> None:
        """Count what the policy is asked to do."""
        self.worked[work] += times

    # inside

    def _take(self, session: str, request: GenerateRequest, now: float) -> None:
        """Note what a robot grants, and queue its generation."""
        try:
            if session not in self._grants:  # of a robot whose first observation is perhaps on its way
                self.sessions.check_room(session, self._grants)
            self.grants(session).take(request, self.sessions.get(session), self.policy.spec, now)
        except Refused as refused:
            self._answer(Reply(session, refusal(request, refused)))
        else:
            self._generate(session)

    def _ended(self, job: Job, outcome: Outcome, now: float) -> list[Reply]:
        """Return what goes out behind a slice, and queue what has become possible by it."""
        replies = list(outcome.replies)
        if not outcome.again:  # granted before a context existed, or while a generation ended
            session, granted = self.sessions.get(job.session), self._grants.get(job.session)
            if isinstance(job, Prefill):
                job.over()
            if isinstance(job, Prefill) and session is not None and granted is not None:
                for flow in granted.on_prefilled(job.observation.sequence, session, now):
                    sentence = f"context {flow.context} of {job.session} is not kept any more"
                    replies.append(Reply(job.session, refusal(flow, Refused("no_context", sentence))))
            self._generate(job.session)
        with self._lock:
            for reply in replies:
                self._count(reply)
        return replies

    def _reset(self, session: str, episode: int) -> None:
        opened = self.sessions.open(session)
        granted = self._grants.get(session)
        if granted is not None and (opened.episode == episode or granted.episode != episode):
            del self._grants[session]  # otherwise it has granted steps of the episode that begins here
        opened.begin(episode)
        self._lanes.wake(session)
        late = self._waiting_prefill(session)
        if late is not None and late.observation.episode != episode:  # it would begin its own episode again
            sentence = f"{session} was reset to episode {episode} before observation was begun"
            with self._lock:
                self._lanes.queue.remove(late)
                for reply in late.cancel(Refused("reset", sentence)):
                    self._answer(reply)

    def _waiting_prefill(self, session: str) -> Prefill | None:
        """Return the prefill of a session that has not begun."""
        with self._lock:
            for job in self._lanes.queue.waiting():
                if isinstance(job, Prefill) and job.session == session and not job.begun:
                    return job
        return None

    def _generate(self, session: str) -> None:
        """Queue the generation of a session when it has something to do and is not queued."""
        queued = any(isinstance(job, Generation) and job.session == session for job in self._lanes.jobs())
        if not queued and self.next_flow(session) is not None:
            self.submit(Generation(self, session))

    def _submit_bounded(self, job: Job) -> None:
        with self._lock:
            same = [w for w in self._lanes.queue.waiting() if w.session == job.session and w.priority is job.priority]
            if len(same) < MAX_REQUESTS:
                self.submit(job)
                return
            kind = job.priority.name.lower()
            sentence = f"{MAX_REQUESTS} requests of kind {kind} of {job.session} are waiting already"
            for reply in job.cancel(Refused("too_many_waiting", sentence)):
                self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        """Send what needs no work."""
        with self._lock:
            self._count(reply)
            self._replies.append(reply)
        self.on_work()

    def _count(self, reply: Reply) -> None:
        value = reply.value
        served = isinstance(value, ContextReport) or getattr(value, "accepted", False)
        self._counts[SERVED[type(value)] if served else value.code] += 1  # type: ignore[union-attr]


def _age(observation: EncodedObservation) -> tuple[int, int]:
    """Return episode and sequence: larger is newer."""
    return observation.episode, observation.sequence
