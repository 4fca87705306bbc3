"""The jobs that have not ended, as the log has them: how many wait for a model, in which order, and what is due when.

Leaves reading the log to `job_follower.py`, and recording to the jobs actor.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime

from msgspec import Struct

from actors.estimates import Estimates
from eventlog.events import Event, JobCompleted, JobEvent, JobQueued, JobStarted, Priority, Recorded, Unknown
from eventlog.job import Job, apply

_RANKS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}

# Deadlines of jobs that have ended are dropped when there are so many more of them than jobs.
_SPARE = 1000


class OpenJob(Struct, frozen=True, kw_only=True):
    """A job after its event number `seq`.

    `place` orders the queued ones of a model; None before it is in the queue. `begun_at` is that of the last attempt,
    which `actor` made.
    """

    job: Job
    seq: int
    place: tuple[int, int] | None = None
    begun_at: datetime | None = None
    actor: str | None = None


class OpenJobs:
    """All jobs that have not ended. `on_deadline` is called when the next one to look at is another."""

    def __init__(self, estimates: Estimates, on_deadline: Callable[[], None]) -> None:
        self.position = 0
        self._estimates = estimates
        self._on_deadline = on_deadline
        self._jobs: dict[str, OpenJob] = {}
        self._ended: dict[str, int] = {}
        self._queued: defaultdict[str, dict[str, tuple[int, int] | None]] = defaultdict(dict)
        self._running: defaultdict[str, set[str]] = defaultdict(set)
        self._deadlines: list[tuple[datetime, str]] = []

    def follow(self, entries: Iterable[Recorded]) -> None:
        """Take in the next events of the log, without a gap between them and those before."""
        for entry in entries:
            self.take(entry.seq, entry.event)
            self.position = entry.seq
        for job_id in [job_id for job_id, seq in self._ended.items() if seq <= self.position]:
            del self._ended[job_id]

    def take(self, seq: int, event: Event | Unknown) -> None:
        """Take in event number `seq`, perhaps before those that come first in the log, but not of its job.

        An event that is taken twice counts once.
        """
        if not isinstance(event, JobEvent):
            return
        before = self._jobs.get(event.job_id)
        # What is unknown by now, though it has begun before, has ended.
        seen = before.seq if before else self._ended.get(event.job_id, self.position)
        if seq > seen:
            job = apply(before.job if before else None, event)
            if job is not None:
                self._put(before, _after(before, job, seq, event))
                self._measure(event, before)

    def count(self, model: str) -> int:
        """Return how many jobs of `model` wait, scheduled ones included."""
        return len(self._queued.get(model, ()))

    def running(self, model: str) -> int:
        """Return how many jobs of `model` run."""
        return len(self._running.get(model, ()))

    def of_model(self, model: str) -> list[OpenJob]:
        """Return the jobs of `model`, in no order."""
        return [self._jobs[job_id] for job_id in (*self._queued.get(model, ()), *self._running.get(model, ()))]

    def number(self, model: str, priority: Priority) -> int:
        """Return which number a job would have in the queue of `model` if it came now, from 1."""
        places = self._queued.get(model, {}).values()
        return 1 + sum(place is not None and place[0] <= _RANKS[priority] for place in places)

    def position_of(self, job_id: str) -> int | None:
        """Return the number of a job in the queue of its model, from 1; None when it is not in it."""
        one = self._jobs.get(job_id)
        if one is None or one.place is None or one.job.status != "queued":
            return None
        own = one.place
        return 1 + sum(place is not None and place < own for place in self._queued[one.job.model].values())

    def wait(self, model: str, operation: str, number: int) -> float | None:
        """Return in how many seconds number `number` in the queue of `model` would begin; None when unknown."""
        return self._estimates.wait(model, operation, number - 1 + self.running(model))

    def completion(self, job_id: str, at: datetime) -> float | None:
        """Return how many seconds after `at` the job will be done; None when that is unknown, or it has ended."""
        one = self._jobs.get(job_id)
        run = self._estimates.run(one.job.model, one.job.operation) if one else None
        if one is None or run is None:
            return None
        job = one.job
        if job.status == "processing":
            return max(run - (at - one.begun_at).total_seconds(), 0.0) if one.begun_at else run
        if one.place is None and job.run_at is not None:
            return max((job.run_at - at).total_seconds(), 0.0) + run
        wait = self.wait(job.model, job.operation, self.position_of(job_id) or 1)
        return None if wait is None else wait + run

    @property
    def next_at(self) -> datetime | None:
        """When a job is due or expires next; perhaps one that has ended by then."""
        return self._deadlines[0][0] if self._deadlines else None

    def due(self, at: datetime) -> list[str]:
        """Return the jobs whose time to be queued, or to expire, has come by `at`; each once for each of its times."""
        found: dict[str, None] = {}
        while self._deadlines and self._deadlines[0][0] <= at:
            _, job_id = heapq.heappop(self._deadlines)
            if job_id in self._jobs:
                found[job_id] = None
        return list(found)

    def remind(self, job_id: str, at: datetime) -> None:
        """Have `due` return the job at that time, if it has not ended by then."""
        heapq.heappush(self._deadlines, (at, job_id))
        if self._deadlines[0] == (at, job_id):
            self._on_deadline()

    def _put(self, before: OpenJob | None, now: OpenJob) -> None:
        job = now.job
        self._queued[job.model].pop(job.job_id, None)
        self._running[job.model].discard(job.job_id)
        if job.is_final:
            self._jobs.pop(job.job_id, None)
            if now.seq > self.position:
                self._ended[job.job_id] = now.seq
            return
        self._jobs[job.job_id] = now
        if job.status == "processing":
            self._running[job.model].add(job.job_id)
            return
        self._queued[job.model][job.job_id] = now.place
        if before is None or before.job.status != "queued":
            self._watch(job)

    def _watch(self, job: Job) -> None:
        if len(self._deadlines) > 2 * len(self._jobs) + _SPARE:
            self._deadlines = [each for each in self._deadlines if each[1] in self._jobs]
            heapq.heapify(self._deadlines)
        if job.queued_at is None and job.run_at is not None:
            self.remind(job.job_id, job.run_at)
        if job.expires_at is not None:
            self.remind(job.job_id, job.expires_at)

    def _measure(self, event: JobEvent, before: OpenJob | None) -> None:
        if before is None:
            return
        job = before.job
        if isinstance(event, JobStarted):
            self._estimates.begun(job.model, self.running(job.model))
        elif isinstance(event, JobCompleted) and before.begun_at is not None:
            self._estimates.ended(job.model, job.operation, (event.at - before.begun_at).total_seconds())


def _after(before: OpenJob | None, job: Job, seq: int, event: JobEvent) -> OpenJob:
    place = before.place if before else None
    if isinstance(event, JobQueued):
        place = place or (_RANKS[job.priority], seq)
    if isinstance(event, JobStarted):
        return OpenJob(job=job, seq=seq, place=place, begun_at=event.at, actor=event.actor)
    return OpenJob(
        job=job,
        seq=seq,
        place=place,
        begun_at=before.begun_at if before else None,
        actor=before.actor if before else None,
    )
