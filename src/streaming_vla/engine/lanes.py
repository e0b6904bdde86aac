"""What does the engine's work: lanes of the hardware that each do one slice at a time, and what waits for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from streaming_vla.engine.jobs import Job, JobQueue, Outcome, Work
from streaming_vla.engine.pace import Pace
from streaming_vla.engine.prefill import Prefill
from streaming_vla.engine.refused import Refused, describe

LOGGER = logging.getLogger(__name__)
NEVER_S = float("inf")
NOW_S = float("-inf")


@dataclass
class _Lane:
    """A part of the hardware; `end_s`, `outcome`: of the slice in work."""

    job: Job | None = None
    end_s: float = NEVER_S
    outcome: Outcome = field(default_factory=Outcome)


class Lanes:
    """Jobs by priority, one slice at a time on every lane. Without a pace a slice takes as long as it takes.

    Of one session one prefill is worked on at a time: what the next one sees is the history behind it.

    Args:
        pace: how long work takes; None: as long as it does on this machine.
        stopwatch: seconds of the work itself.
        wait_for_futures: block for what the policy waits for.
        lock: of the queue, which other threads put jobs into; it is not held while a job works.
        on_work: called when a job can go on.
    """

    def __init__(
        self,
        pace: Pace | None,
        stopwatch: Callable[[], float],
        wait_for_futures: bool,
        lock: AbstractContextManager[object],
        on_work: Callable[[], None],
    ) -> None:
        self.queue = JobQueue()
        self.later_than_paced = 0  # slices that took longer here than the pace says
        self._pace, self._stopwatch, self._blocks = pace, stopwatch, wait_for_futures
        self._lock, self._on_work = lock, on_work
        self._lanes = [_Lane(), _Lane()] if pace is not None and pace.beside else [_Lane()]
        self._left_s: dict[Job, list[float]] = {}  # slices of a paced prefill
        self._parked: dict[Job, float] = {}  # waiting for a future, since when
        self._slice_since_s = NEVER_S  # when the slice in work was begun

    def work(self, now: float) -> Iterator[tuple[Job, Outcome]]:
        """Do what is due, at most one slice on every lane; yields the slices that are over, one by one."""
        for lane in self._lanes:
            if lane.job is not None and lane.end_s <= now:
                yield self._end(lane, now)
        for number, lane in enumerate(self._lanes):
            while lane.job is None and self._begin(lane, number, now):
                if lane.job is not None and lane.end_s <= now:
                    ended = self._end(lane, now)
                    yield ended
                    if not ended[1].nothing:
                        break

    def deadline(self) -> float:
        """Return when `work` has something to do: minus infinity is now, infinity when a job was put."""
        with self._lock:
            for number, lane in enumerate(self._lanes):
                if lane.job is None and any(self._can_begin(number, job) for job in self.queue.waiting()):
                    return NOW_S
            return min(lane.end_s for lane in self._lanes)

    def working_since(self) -> float:
        """Return when the oldest slice was begun that the policy has not ended, infinity: none. From any thread."""
        with self._lock:
            return min([self._slice_since_s, *self._parked.values()])

    def jobs(self) -> list[Job]:
        """Return what has not ended: waiting, waiting for a future, or in work."""
        with self._lock:
            return [*self.queue.waiting(), *self._parked, *(lane.job for lane in self._lanes if lane.job is not None)]

    def clear(self) -> list[Job]:
        """Let go of everything; return the jobs that had not ended."""
        with self._lock:
            jobs = self.jobs()
            self.queue, self._parked, self._left_s = JobQueue(), {}, {}
            for lane in self._lanes:
                lane.job, lane.end_s = None, NEVER_S
            return jobs

    def wake(self, session: str) -> None:
        """Let what waits for a future in a session look at once whether it is still wanted."""
        with self._lock:
            for job in [job for job in self._parked if job.session == session]:
                self._unpark(job)

    def _can_begin(self, number: int, job: Job) -> bool:
        """True when a lane may do the next slice of a job that waits; with two lanes the second one does prefills."""
        if len(self._lanes) > 1 and number != int(job.work is Work.PREFILL):
            return False
        if not isinstance(job, Prefill) or job.begun:
            return True
        others = (other for other in self.jobs() if isinstance(other, Prefill) and other.begun)
        return all(other.session != job.session for other in others)

    def _begin(self, lane: _Lane, number: int, now: float) -> bool:
        """Begin a slice on a lane that is free; False when there is none."""
        with self._lock:
            lane.job = job = self.queue.pop(lambda job: self._can_begin(number, job))
        if job is None:
            return False
        begin_s, self._slice_since_s = self._stopwatch(), now
        try:
            outcome, paced_s = self._slice(job, now)
        except Exception as error:  # of the engine, not of the policy: the other robots go on all the same
            LOGGER.exception("the engine failed in %s of %s", job.work.value, job.session)
            outcome = Outcome(job.cancel(Refused("engine_failed", describe(job.work.value, error))), refused=True)
            paced_s = 0.0
        taken_s, self._slice_since_s = self._stopwatch() - begin_s, NEVER_S
        if lane.job is not job:  # closed meanwhile
            return False
        self.later_than_paced += int(0.0 < paced_s < taken_s)
        lane.outcome, lane.end_s = outcome, now + paced_s
        if not outcome.nothing and not outcome.refused:
            policy_s = taken_s if outcome.policy_s is None else outcome.policy_s
            job.timed(outcome, max(paced_s, policy_s), now + max(paced_s, taken_s))
        return True

    def _slice(self, job: Job, now: float) -> tuple[Outcome, float]:
        """Do a slice of a job; return what it led to and how long it takes by the pace, seconds.

        The slices of a prefill whose number a profile tells take their time one by one, and the work of all of them is
        done in the last one. What is refused takes no time.
        """
        if self._pace is None:
            return self._run(job, now), 0.0
        if job.work is not Work.PREFILL:
            outcome = self._run(job, now)
            return outcome, 0.0 if outcome.nothing or outcome.refused else self._pace.slices_s(job, now)[0]
        left_s = self._left_s.setdefault(job, [])
        if not left_s:
            left_s += self._pace.slices_s(job, now)
        seconds = left_s.pop(0)
        outcome = job.hold() if left_s else self._run(job, now)
        while not left_s and outcome.again and outcome.wait is None and job.work is Work.PREFILL:
            outcome = self._run(job, now)
        if outcome.wait is not None:
            left_s.append(0.0)  # its time is over, what it waits for is not there yet
        return outcome, 0.0 if outcome.refused else seconds

    def _run(self, job: Job, now: float) -> Outcome:
        outcome = job.run(now)
        if outcome.wait is not None and self._blocks:
            wait([outcome.wait])
            outcome.wait = None
        return outcome

    def _end(self, lane: _Lane, now: float) -> tuple[Job, Outcome]:
        """Free a lane, and queue what goes on."""
        job, outcome = lane.job, lane.outcome
        assert job is not None, "a lane that ends a slice has a job"
        with self._lock:
            lane.job, lane.end_s = None, NEVER_S
            if not outcome.again:
                self.queue.forget(job)
                self._left_s.pop(job, None)
            elif outcome.wait is not None and not outcome.wait.done():
                self._parked[job] = now
                outcome.wait.add_done_callback(lambda _done: self._unpark(job))
            else:
                self.queue.put(job)
        return job, outcome

    def _unpark(self, job: Job) -> None:
        with self._lock:
            if self._parked.pop(job, None) is None:
                return
            self.queue.put(job)
        self._on_work()
