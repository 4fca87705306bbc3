"""Schedules deliveries: follows what happens to jobs, and records which webhooks are to be told of it.

Reads the log through a durable consumer, so that it goes on where it was; what it meets again is recorded once.
"""

import asyncio
import hashlib
from datetime import UTC, datetime
from typing import get_args

import structlog

from actors.webhook_deliveries import Deliveries
from actors.webhook_registry import Registry
from bus.client import Bus
from bus.durable import Taken, ensure_durable, find_durable, pull_batch, rewind
from bus.errors import ConflictError, LostError, RefusedError
from bus.events import EventLog, pattern_of
from bus.ids import new_id
from bus.messages.webhooks import WebhookEventKind
from bus.streams import Json, stream_last_seq
from eventlog.events import JobCancelled, JobCompleted, JobEvent, JobFailed, JobQueued
from eventlog.job import fold
from eventlog.webhook_events import WebhookScheduled

log = structlog.get_logger()

_DURABLE = "webhooks"
_BATCH = 500
_WAIT = 5.0
_PAUSE = 1.0
# After a batch, for the next to grow: under load few acknowledgements have to be written.
_GATHER = 0.05


def scheduler_consumer(start: int) -> Json:
    """Return the configuration of the durable; `start` is where it begins when it is made."""
    return {
        "durable_name": _DURABLE,
        "filter_subjects": [pattern_of(kind) for kind in get_args(WebhookEventKind)],
        # Each batch with one acknowledgement: an acknowledgement costs a write, as an event does.
        "ack_policy": "all",
        "ack_wait": 30 * 10**9,
        "max_deliver": -1,
        "max_ack_pending": _BATCH,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
    }


class Scheduler:
    """Turns events of jobs into deliveries."""

    def __init__(self, bus: Bus, registry: Registry, deliveries: Deliveries) -> None:
        self._nc = bus.nc
        self._log = EventLog(bus)
        self._registry = registry
        self._deliveries = deliveries
        # Of jobs whose beginning was met: where their end is to be told. Saves reading each job at its end.
        self._callbacks: dict[str, str | None] = {}

    async def run(self) -> None:
        """Schedule for ever. While the log is out of reach, or full, it waits."""
        while True:
            try:
                await self._begin()
                while True:
                    await self._schedule_next()
            except (LostError, RefusedError) as error:
                log.warning("webhooks.waiting", error=str(error))
                await asyncio.sleep(_PAUSE)

    async def _begin(self) -> None:
        kept = await find_durable(self._nc, "EVENTS", _DURABLE)
        start = kept["config"]["opt_start_seq"] if kept else await stream_last_seq(self._nc, "EVENTS") + 1
        await ensure_durable(self._nc, "EVENTS", scheduler_consumer(start))
        await rewind(self._nc, "EVENTS", _DURABLE)

    async def _schedule_next(self) -> None:
        batch = await pull_batch(self._nc, "EVENTS", _DURABLE, _BATCH, _WAIT)
        for item in batch:
            await self._schedule(item)
        if batch:
            await batch[-1].delivery.ack()
            await asyncio.sleep(_GATHER)

    async def _schedule(self, item: Taken) -> None:
        event = item.event
        if not isinstance(event, JobEvent):
            return
        kind = str(type(event).__struct_config__.tag)
        for webhook in self._registry.webhooks:
            if webhook.status == "active" and kind in webhook.events and item.seq > webhook.since:
                await self._record(item, event, kind, webhook.url, webhook.webhook_id)
        callback = await self._callback(event)
        if callback is not None:
            await self._record(item, event, kind, callback, None)

    async def _callback(self, event: JobEvent) -> str | None:
        """Return the `callback_url` of a job that ends with `event`."""
        if isinstance(event, JobQueued):
            self._callbacks[event.job_id] = event.callback_url
        if not isinstance(event, JobCompleted | JobFailed | JobCancelled):
            return None
        if event.job_id in self._callbacks:
            return self._callbacks.pop(event.job_id)
        job = fold(recorded.event for recorded in await self._log.read_job(event.job_id))
        return job.callback_url if job else None

    async def _record(self, item: Taken, event: JobEvent, kind: str, url: str, webhook_id: str | None) -> None:
        scheduled = WebhookScheduled(
            id=new_id(),
            at=datetime.now(UTC),
            delivery_id=delivery_id_of(webhook_id, event),
            event=kind,
            seq=item.seq,
            job_id=event.job_id,
            url=url,
            webhook_id=webhook_id,
        )
        try:
            await self._deliveries.record_next(scheduled, after=0)
        except ConflictError:
            log.debug("webhook.known", delivery_id=scheduled.delivery_id)


def delivery_id_of(webhook_id: str | None, event: JobEvent) -> str:
    """Return the id of the one delivery of `event` to the webhook, or to the callback of its job."""
    return f"delivery-{hashlib.sha256(f'{webhook_id or event.job_id} {event.id}'.encode()).hexdigest()[:32]}"
