"""`fusion jobs`: lists, shows, cancels and watches jobs."""

import argparse
from datetime import datetime
from typing import get_args

import msgspec

from bus.client import Bus
from bus.events import EventLog
from bus.messages.history import HistoryQuery, JobQuery
from bus.messages.jobs import CancelJob, GetJob
from bus.subjects import CANCEL_JOB, GET_HISTORY, GET_JOB, LIST_HISTORY
from cli.connect import Subparsers, add_action
from eventlog.events import Unknown
from eventlog.job import JobStatus

_MOST_LINES = 60


def add(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("jobs", help="list, show, cancel and watch jobs")
    what = parser.add_subparsers(required=True, metavar="what")
    listing = add_action(what, "list", "list jobs, newest first", _list)
    listing.add_argument("--status", choices=get_args(JobStatus), help="only those with this status")
    listing.add_argument("--limit", type=int, default=20, help="how many at the most")
    showing = add_action(what, "show", "show one job with its events and its result", _show)
    showing.add_argument("job_id")
    cancelling = add_action(what, "cancel", "end one job", _cancel)
    cancelling.add_argument("job_id")
    add_action(what, "watch", "print the events of jobs as they are recorded", _watch)


async def _list(bus: Bus, args: argparse.Namespace) -> None:
    reply = await bus.ask(LIST_HISTORY(), HistoryQuery(status=args.status, limit=args.limit))
    for job in reply.jobs:
        print(f"{job.job_id}  {job.status:<10}  {_time(job.created_at)}  {job.operation:<6} {job.model}")
    print(f"{len(reply.jobs)} of {reply.total} jobs, as of event {reply.as_of}")


async def _show(bus: Bus, args: argparse.Namespace) -> None:
    job = await bus.ask(GET_JOB(), GetJob(job_id=args.job_id))
    history = await bus.ask(GET_HISTORY(), JobQuery(job_id=args.job_id))
    for event in history.events:
        print(bytes(event).decode())
    lines = msgspec.json.format(msgspec.json.encode(job), indent=2).decode().splitlines()
    print("\n".join(lines if len(lines) <= _MOST_LINES else [*lines[:_MOST_LINES], f"… {len(lines)} lines in all"]))


async def _cancel(bus: Bus, args: argparse.Namespace) -> None:
    job = await bus.ask(CANCEL_JOB(), CancelJob(job_id=args.job_id))
    print(f"{job.job_id}  {job.status}")


async def _watch(bus: Bus, _: argparse.Namespace) -> None:
    async with EventLog(bus).follow("fusion.feed.job.>") as events:
        async for recorded in events:
            event = recorded.event
            if not isinstance(event, Unknown):
                print(f"{recorded.seq:>8}  {_time(event.at)}  {recorded.raw.decode()}", flush=True)


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%H:%M:%S.%f")[:-3]
