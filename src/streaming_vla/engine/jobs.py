"""Jobs of the engine and the one queue that they wait in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Protocol

from streaming_vla.engine.refused import Refused
from streaming_vla.engine.values import Reply


class Priority(IntEnum):
    """Which job is looked at first; jobs of one priority go in the order in which they came."""

    RESET = 0
    GENERATE = 1
    SALIENCY = 2
    PREFILL = 3


class Work(Enum):
    """What a slice does; latencies and costs are told by it."""

    RESET = "reset"
    FLOW_STEP = "flow_step"
    ROW = "row"  # of a chunk that exists
    DENOISE = "denoise"
    PLAN = "plan"
    LOOK_AHEAD = "look_ahead"
    PREFILL = "prefill"


@dataclass
class Outcome:
    """What a slice has led to.

    Args:
        replies: go out when the slice is over.
        again: the job needs another slice.
        wait: the next slice has to wait for this.
        nothing: there was nothing to do, it took no time.
        refused: the job has ended with a refusal, which is never paced.
        policy_s: what the policy took of the slice, seconds; None: all of it.
    """

    replies: list[Reply] = field(default_factory=list)
    again: bool = False
    wait: Future[Any] | None = None
    nothing: bool = False
    refused: bool = False
    policy_s: float | None = None


class Job(Protocol):
    """Work in slices. It answers for its own errors."""

    session: str
    priority: Priority

    @property
    def work(self) -> Work:
        """What its next slice does."""

    def run(self, now: float) -> Outcome:
        """Do one slice."""

    def hold(self) -> Outcome:
        """Take the time of a slice without doing its work yet (see Lanes)."""

    def timed(self, outcome: Outcome, seconds: float, end_s: float) -> None:
        """The slice took `seconds` and will be over at `end_s`; the last word on its replies, which go out then.

        Not called when it was refused or had nothing to do.
        """

    def cancel(self, refused: Refused) -> list[Reply]:
        """Will not be run again: return what is answered."""


class JobQueue:
    """Jobs by priority, those of one priority in the order in which they came. Not thread safe."""

    def __init__(self) -> None:
        self._jobs: list[tuple[Priority, int, Job]] = []
        self._order = 0
        self._places: dict[Job, int] = {}  # of prefills that have begun

    def put(self, job: Job) -> None:
        """Queue a job; a prefill that has begun before others of its priority, everything else behind them."""
        place = self._places.pop(job, self._order)
        self._order += 1
        self._jobs.append((job.priority, place, job))

    def pop(self, fits: Callable[[Job], bool]) -> Job | None:
        """Return the first job that fits and remove it; None when there is none."""
        entry = min((entry for entry in self._jobs if fits(entry[2])), key=lambda entry: entry[:2], default=None)
        if entry is None:
            return None
        self._jobs.remove(entry)
        if entry[0] is Priority.PREFILL:
            self._places[entry[2]] = entry[1]
        return entry[2]

    def remove(self, job: Job) -> None:
        """The job does not wait any more and will not come back."""
        self._jobs = [entry for entry in self._jobs if entry[2] is not job]
        self.forget(job)

    def forget(self, job: Job) -> None:
        """The job is done and will not come back."""
        self._places.pop(job, None)

    def waiting(self) -> list[Job]:
        """Return all jobs that wait, the first one first."""
        return [job for _, _, job in sorted(self._jobs, key=lambda entry: entry[:2])]

    def __len__(self) -> int:
        """Number of jobs that wait."""
        return len(self._jobs)
