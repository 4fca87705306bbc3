"""The batches actor: accepts batches, tells how they stand, and has their requests run as jobs.

Listens on  fusion.batches.create, .start, .fail, .finish, .get, .list, .cancel
Owns        the events of batches; a runner for each batch that is under way
Never       reads the files, which are in OpenAI's words: the edge turns them into plans and outcomes into files
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from actors.batch_runner import Runner, line_of
from actors.pages import page
from actors.supervisor import Child
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.batches import (
    BatchList,
    BatchReply,
    CancelBatch,
    CreateBatch,
    FailBatch,
    FinishBatch,
    GetBatch,
    ListBatches,
    StartBatch,
)
from bus.messages.files import GetFile
from bus.pull import reading_log
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.streams import stream_last_seq
from bus.subjects import (
    BATCH_EVENTS,
    CANCEL_BATCH,
    CREATE_BATCH,
    FAIL_BATCH,
    FINISH_BATCH,
    GET_BATCH,
    GET_FILE,
    LIST_BATCHES,
    START_BATCH,
    fill,
)
from eventlog.batch import Batch, decide_cancel, decide_end, decide_fail, decide_finalizing, decide_start, fold
from eventlog.batch_events import BatchCancelRequested, BatchCreated, BatchEvent, BatchFinalizing, BatchStarted
from eventlog.events import Event, JobCancelled, JobCompleted, JobFailed, JobQueued, Recorded, Unknown
from eventlog.job import Stamp

log = structlog.get_logger()

_WINDOWS = {"24h": timedelta(hours=24)}
_PORTION = 1000
_PAUSE = 1.0


class Batches:
    """Answers for all batches, and runs them."""

    def __init__(self, bus: Bus, blobs: Blobs) -> None:
        self._bus = bus
        self._blobs = blobs
        self._events = EventLog(bus)
        self._runners: dict[str, Runner] = {}
        self._moved = asyncio.Event()

    async def create(self, request: CreateBatch, _: Caller) -> AsyncGenerator[BatchReply]:
        """Record that the batch was accepted, and answer when that is stored."""
        file = await self._bus.ask(GET_FILE(), GetFile(file_id=request.input_file_id))
        if file.purpose != "batch":
            message = f"The file '{file.file_id}' has the purpose '{file.purpose}', not 'batch'."
            raise RefusedError("invalid_request", message, param="input_file_id")
        now = datetime.now(UTC)
        created = BatchCreated(
            id=new_id(),
            at=now,
            batch_id=request.batch_id or f"batch_{new_id()}",
            input_file_id=request.input_file_id,
            endpoint=request.endpoint,
            completion_window=request.completion_window,
            expires_at=now + _WINDOWS[request.completion_window],
            metadata=request.metadata,
            key=request.key,
        )
        try:
            await self._events.record_next(created, after=0)
            log.info("batch.created", batch_id=created.batch_id, endpoint=request.endpoint)
        except ConflictError:
            await self._check_same(created)
        yield await self._reply(created.batch_id)

    async def start(self, request: StartBatch, _: Caller) -> AsyncGenerator[BatchReply]:
        """Have the requests of the plan run. Of a batch that does not wait for it, tell how it stands."""
        try:
            await self._move(
                request.batch_id,
                lambda batch, stamp: decide_start(batch, stamp, plan_blob=request.plan_blob, total=request.total),
            )
        finally:
            self._moved.set()  # Lost on the way back, it may be stored all the same.
        yield await self._reply(request.batch_id)

    async def fail(self, request: FailBatch, _: Caller) -> AsyncGenerator[BatchReply]:
        """End a batch whose input is wrong."""
        await self._move(request.batch_id, lambda batch, stamp: decide_fail(batch, stamp, request.errors))
        yield await self._reply(request.batch_id)

    async def finish(self, request: FinishBatch, _: Caller) -> AsyncGenerator[BatchReply]:
        """End a batch whose files are there."""
        await self._move(
            request.batch_id,
            lambda batch, stamp: decide_end(
                batch, stamp, output_file_id=request.output_file_id, error_file_id=request.error_file_id
            ),
        )
        yield await self._reply(request.batch_id)

    async def get(self, request: GetBatch, _: Caller) -> AsyncGenerator[BatchReply]:
        """Answer from the log itself, and from the runner what it has counted."""
        yield await self._reply(request.batch_id)

    async def list_page(self, request: ListBatches, _: Caller) -> AsyncGenerator[BatchList]:
        """Answer with a page of batches, newest first."""
        batches = [fold([item.event for item in recorded]) for recorded in await self._all()]
        replies = [self._counted(batch) for batch in reversed(batches) if batch is not None]
        found, has_more = page(replies, lambda reply: reply.batch_id, after=request.after, limit=request.limit)
        yield BatchList(batches=found, has_more=has_more)

    async def cancel(self, request: CancelBatch, _: Caller) -> AsyncGenerator[BatchReply]:
        """Ask for the batch's end. One whose requests have all ended stays as it is."""
        await self._move(request.batch_id, decide_cancel)
        batch, _seq = await self._batch(request.batch_id)
        if batch.plan_blob is None:
            await self._move(request.batch_id, decide_end)
        yield await self._reply(request.batch_id)

    async def follow(self) -> None:
        """Run, for ever, what is under way, and go on with it after a restart: all there is to know is in the log."""
        while True:
            self._moved.clear()
            try:
                begin = await self._first_under_way()
                if begin is None:
                    await self._moved.wait()
                else:
                    await self._follow_from(begin)
            except* LostError as lost:
                # The log was away for longer than one waits: look again how all stands.
                log.warning("batches.lost", errors=[str(error) for error in lost.exceptions])
                await asyncio.sleep(_PAUSE)

    async def _first_under_way(self) -> int | None:
        """Return the sequence with which the first batch that runs was started; end those that never were."""
        begins: list[int] = []
        for recorded in await self._all():
            batch = fold([item.event for item in recorded])
            if batch is not None and batch.is_running:
                begins.append(next(item.seq for item in recorded if isinstance(item.event, BatchStarted)))
            elif batch is not None and batch.status == "cancelling" and batch.plan_blob is None:
                await self._move(batch.batch_id, decide_end)
        return min(begins, default=None)

    async def _follow_from(self, begin: int) -> None:
        """Read the log from sequence `begin` on until nothing is under way.

        Runners hear of everything that happened to their jobs, and begin when they know it.
        """
        goal = await stream_last_seq(self._bus.nc, "EVENTS")
        self._runners.clear()
        begun: set[str] = set()
        async with reading_log(self._bus, begin - 1) as reader, asyncio.TaskGroup() as group:
            while True:
                entries = await reader.batch(_PORTION)
                for entry in entries:
                    await self._take(entry.event)
                if entries[-1].seq < goal:
                    continue
                for batch_id in self._runners.keys() - begun:
                    begun.add(batch_id)
                    group.create_task(self._run(self._runners[batch_id]))
                if not self._runners:
                    return

    async def _take(self, event: Event | Unknown) -> None:
        match event:
            case BatchStarted():
                batch, _ = await self._batch(event.batch_id)
                if batch.is_running:
                    self._runners[batch.batch_id] = Runner(self._bus, self._blobs, batch)
            case BatchCancelRequested():
                if event.batch_id in self._runners:
                    self._runners[event.batch_id].cancel()
            case BatchFinalizing():
                self._runners.pop(event.batch_id, None)
            case JobQueued() | JobCompleted() | JobFailed() | JobCancelled():
                batch_id, line = line_of(event.job_id)
                if batch_id in self._runners:
                    self._runners[batch_id].see(line, event)
            case _:
                pass

    async def _run(self, runner: Runner) -> None:
        outcomes = await runner.run()

        def decide(batch: Batch, stamp: Stamp) -> BatchEvent | None:
            return decide_finalizing(
                batch, stamp, outcomes_blob=outcomes.blob, completed=outcomes.completed, failed=outcomes.failed
            )

        await self._move(runner.batch_id, decide)

    async def _move(self, batch_id: str, decide: Callable[[Batch, Stamp], BatchEvent | None]) -> None:
        """Record what `decide` returns for the batch as it stands, and again if it has moved on meanwhile."""
        while True:
            batch, last = await self._batch(batch_id)
            event = decide(batch, Stamp(new_id(), datetime.now(UTC)))
            if event is None:
                return
            with suppress(ConflictError):
                await self._events.record_next(event, after=last)
                log.info("batch.moved", batch_id=batch_id, kind=type(event).__name__)
                return

    async def _check_same(self, created: BatchCreated) -> None:
        batch, _ = await self._batch(created.batch_id)
        if (batch.input_file_id, batch.endpoint) != (created.input_file_id, created.endpoint):
            message = f"The batch '{created.batch_id}' was created before with another file or endpoint."
            raise RefusedError("conflict", message, param="batch_id")

    async def _batch(self, batch_id: str) -> tuple[Batch, int]:
        recorded = await self._events.read(fill(BATCH_EVENTS, batch_id))
        batch = fold([item.event for item in recorded])
        if batch is None:
            raise RefusedError("batch_not_found", f"There is no batch '{batch_id[:80]}'.", param="batch_id")
        return batch, recorded[-1].seq

    async def _all(self) -> list[list[Recorded]]:
        """Return the events of each batch, in the order of their first ones."""
        by_batch: dict[str, list[Recorded]] = {}
        for item in await self._events.read(BATCH_EVENTS):
            if isinstance(item.event, BatchEvent):
                by_batch.setdefault(item.event.batch_id, []).append(item)
        return list(by_batch.values())

    async def _reply(self, batch_id: str) -> BatchReply:
        batch, _ = await self._batch(batch_id)
        return self._counted(batch)

    def _counted(self, batch: Batch) -> BatchReply:
        runner = self._runners.get(batch.batch_id)
        fields = {name: getattr(batch, name) for name in BatchReply.__struct_fields__}
        return BatchReply(**(fields | (runner.counts() if runner and batch.is_running else {})))


def child(bus: Bus, blobs: Blobs, instance: str) -> Child:
    """Return what the supervisor needs to run this actor."""

    async def run() -> None:
        batches = Batches(bus, blobs)
        info = ServiceInfo(
            name="fusion-batches", instance=instance, description="Accepts batches, runs them, tells how they stand"
        )
        endpoints = (
            Endpoint(CREATE_BATCH(), batches.create),
            Endpoint(START_BATCH(), batches.start),
            Endpoint(FAIL_BATCH(), batches.fail),
            Endpoint(FINISH_BATCH(), batches.finish),
            Endpoint(GET_BATCH(), batches.get),
            Endpoint(LIST_BATCHES(), batches.list_page),
            Endpoint(CANCEL_BATCH(), batches.cancel),
        )
        async with serving(bus, info, *endpoints):
            await batches.follow()

    return Child("batches", run)
