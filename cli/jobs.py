"""`fusion jobs`: submits, lists, shows, cancels, watches and replays jobs."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import get_args

import msgspec

from bus.client import Bus
from bus.events import EventLog
from bus.messages.history import HistoryQuery, JobQuery
from bus.messages.jobs import CancelJob, GetJob, JobProgress, JobReply, Operation, ReplayJob, SubmitJob
from bus.progress import hearing_progress
from bus.subjects import CANCEL_JOB, GET_HISTORY, GET_JOB, JOB_FEED, LIST_HISTORY, REPLAY_JOB, SUBMIT_JOB, fill
from cli.connect import Subparsers, add_action, moment
from eventlog.events import Priority, Unknown
from eventlog.history_schema import Sort
from eventlog.job import JobStatus

_MOST_LINES = 60
_FINAL = frozenset(("completed", "failed", "cancelled"))

# A job is asked for when nothing was heard of it for so long, in seconds.
_QUIET = 5.0


def add(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("jobs", help="submit, list, show, cancel, watch and replay jobs")
    what = parser.add_subparsers(required=True, metavar="what")
    submitting = add_action(what, "submit", "submit a job", _submit)
    submitting.add_argument("model", help="the model that is to do it")
    submitting.add_argument("operation", choices=get_args(Operation), help="what it is to do")
    submitting.add_argument("input", help="a file with the request as JSON, or - to read it from the input")
    submitting.add_argument("--priority", choices=get_args(Priority), default="normal", help="how urgent it is")
    submitting.add_argument("--run-at", type=moment, help="when it is queued, as in 2026-11-21T22:00:00Z")
    submitting.add_argument("--wait", action="store_true", help="wait until it has ended, and print its result")
    listing = add_action(what, "list", "list jobs, newest first", _list)
    listing.add_argument("--status", choices=get_args(JobStatus), help="only those with this status")
    listing.add_argument("--model", help="only those of this model")
    listing.add_argument("--metadata", type=_member, action="append", default=[], metavar="NAME=VALUE", help="with it")
    listing.add_argument("--created-after", type=moment, help="only those that were accepted later")
    listing.add_argument("--created-before", type=moment, help="only those that were accepted earlier")
    listing.add_argument(
        "--sort", choices=get_args(Sort), default="-created_at", help="the order; with - the latest first"
    )
    listing.add_argument("--limit", type=int, default=20, help="how many at the most")
    showing = add_action(what, "show", "show one job with its events and its result", _show)
    showing.add_argument("job_id")
    cancelling = add_action(what, "cancel", "end one job", _cancel)
    cancelling.add_argument("job_id")
    add_action(what, "watch", "print the events of jobs as they are recorded", _watch)
    replaying = add_action(what, "replay", "run one job again, and compare the results", _replay)
    replaying.add_argument("job_id")


async def _submit(bus: Bus, args: argparse.Namespace) -> None:
    try:
        content = await asyncio.to_thread(_read, args.input)
    except OSError as error:
        sys.exit(f"fusion: {args.input} cannot be read: {error.strerror}")
    try:
        msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        sys.exit(f"fusion: {args.input} is not JSON: {error}")
    request = SubmitJob(
        model=args.model,
        operation=args.operation,
        input=msgspec.Raw(content),
        priority=args.priority,
        run_at=args.run_at,
    )
    job = await bus.ask(SUBMIT_JOB(), request)
    print(f"{job.job_id}  {job.status}", flush=True)
    if args.wait:
        _print_whole(await ended(bus, job.job_id))


async def _list(bus: Bus, args: argparse.Namespace) -> None:
    query = HistoryQuery(
        status=args.status,
        model=args.model,
        metadata=dict(args.metadata),
        created_after=args.created_after,
        created_before=args.created_before,
        sort=args.sort,
        limit=args.limit,
    )
    reply = await bus.ask(LIST_HISTORY(), query)
    for job in reply.jobs:
        print(f"{job.job_id}  {job.status:<10}  {_time(job.created_at)}  {job.operation:<6} {job.model}")
    print(f"{len(reply.jobs)} of {reply.total} jobs, as of event {reply.as_of}")


async def _show(bus: Bus, args: argparse.Namespace) -> None:
    job = await bus.ask(GET_JOB(), GetJob(job_id=args.job_id))
    history = await bus.ask(GET_HISTORY(), JobQuery(job_id=args.job_id))
    for event in history.events:
        print(bytes(event).decode())
    _print_whole(job)


async def _cancel(bus: Bus, args: argparse.Namespace) -> None:
    job = await bus.ask(CANCEL_JOB(), CancelJob(job_id=args.job_id))
    print(f"{job.job_id}  {job.status}")


async def _watch(bus: Bus, _: argparse.Namespace) -> None:
    async with EventLog(bus).follow("fusion.feed.job.>") as events:
        async for recorded in events:
            event = recorded.event
            if not isinstance(event, Unknown):
                print(f"{recorded.seq:>8}  {_time(event.at)}  {recorded.raw.decode()}", flush=True)


async def _replay(bus: Bus, args: argparse.Namespace) -> None:
    job = await bus.ask(REPLAY_JOB(), ReplayJob(job_id=args.job_id))
    print(f"{job.job_id}  replays {args.job_id}", flush=True)
    job = await ended(bus, job.job_id)
    print(f"{job.job_id}  {job.status}" + (f": {job.error}" if job.error else ""))
    if job.comparison is not None:
        print("the result is the same" if job.comparison.is_same else "the result is not the same")
        for difference in job.comparison.differences:
            print(f"  {difference}")


async def ended(bus: Bus, job_id: str, on_progress: Callable[[JobProgress], None] = lambda _: None) -> JobReply:
    """Wait until the job has ended, telling meanwhile how far it is, and return it."""
    async with (
        EventLog(bus).hearing(fill(JOB_FEED, job_id)) as heard,
        hearing_progress(bus, job_id, heard),
    ):
        while (job := await bus.ask(GET_JOB(), GetJob(job_id=job_id))).status not in _FINAL:
            if job.progress is not None:
                on_progress(job.progress)
            with suppress(TimeoutError):
                async with asyncio.timeout(_QUIET):
                    await heard.wait()
            heard.clear()
        return job


def _print_whole(job: JobReply) -> None:
    lines = msgspec.json.format(msgspec.json.encode(job), indent=2).decode().splitlines()
    print("\n".join(lines if len(lines) <= _MOST_LINES else [*lines[:_MOST_LINES], f"… {len(lines)} lines in all"]))


def _read(path: str) -> bytes:
    return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()


def _member(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} has to be NAME=VALUE")
    return name, value


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%H:%M:%S.%f")[:-3]
