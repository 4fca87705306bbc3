"""What must be true of jobs after chaos, whatever was killed. Pure: it is given what was recorded."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from eventlog.events import (
    Event,
    JobCancelled,
    JobCancelRequested,
    JobCompleted,
    JobFailed,
    JobQueued,
    JobRetryScheduled,
    JobStarted,
    Unknown,
)
from eventlog.job import Job, fold

Events = Sequence[Event | Unknown]

_TERMINAL = (JobCompleted, JobFailed, JobCancelled)


def violations(accepted: Iterable[str], recorded: Mapping[str, Events], history: Mapping[str, Job]) -> list[str]:
    """Return what is wrong, one line each: `recorded` and `history` are by job.

    1. Every accepted job is there, and no other.
    2. Its events are a life: queued once, attempts counted without a gap, ends of the attempt that ran, one terminal
       event, and nothing behind that.
    3. The history is the fold of the log.
    """
    found = [f"{job_id}: accepted, and not in the log" for job_id in accepted if job_id not in recorded]
    found += [f"{job_id}: in the log, and nobody submitted it" for job_id in recorded.keys() - set(accepted)]
    for job_id, events in recorded.items():
        found += [f"{job_id}: {line}" for line in _of_life(events)]
        if fold(events) != history.get(job_id):
            found.append(f"{job_id}: the history says {history.get(job_id)}, the log {fold(events)}")
    found += [f"{job_id}: in the history, and not in the log" for job_id in history.keys() - recorded.keys()]
    return found


def _of_life(events: Events) -> list[str]:
    found, attempts, runs = [], 0, False
    for number, event in enumerate(events):
        if isinstance(event, JobQueued) != (number == 0):
            found.append(f"event {number} is {_name(event)}")
        if isinstance(event, JobStarted):
            attempts, runs = attempts + 1, True
            if event.attempt != attempts:
                found.append(f"attempt {event.attempt} was started as number {attempts}")
        elif isinstance(event, JobCompleted | JobRetryScheduled):
            if not runs or event.attempt != attempts:
                found.append(f"{_name(event)} of attempt {event.attempt}, while {attempts if runs else 'none'} ran")
            runs = False
        elif not isinstance(event, JobQueued | JobCancelRequested | JobFailed | JobCancelled):
            found.append(f"{_name(event)} is no event of its life")
    ends = [number for number, event in enumerate(events) if isinstance(event, _TERMINAL)]
    if len(ends) != 1:
        found.append(f"{len(ends)} terminal events")
    elif ends[0] != len(events) - 1:
        found.append(f"{len(events) - 1 - ends[0]} events behind the terminal one")
    return found


def statuses(recorded: Mapping[str, Events]) -> dict[str, int]:
    """Return how many jobs have which status."""
    jobs = (fold(events) for events in recorded.values())
    return dict(Counter(job.status for job in jobs if job is not None))


def count(recorded: Mapping[str, Events], kind: type[Event]) -> int:
    """Return how many events of this kind there are."""
    return sum(isinstance(event, kind) for events in recorded.values() for event in events)


def _name(event: Event | Unknown) -> str:
    return type(event).__name__
