"""The clerk: turns the files of batches into plans when they are created, and their outcomes into files at the end.

Of several edges one does each; what an edge leaves undone when it dies is handed to another, or to the next.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog
from nats.aio.msg import Msg

from bus.blobs import Blobs, Draft
from bus.client import Bus
from bus.errors import BusError, LostError, RefusedError
from bus.messages.batches import BatchReply, FailBatch, FinishBatch, GetBatch, RequestOutcome, StartBatch
from bus.messages.files import GetFile, PutFile
from bus.messages.models import ListModels, ModelCard
from bus.pull import Delivery, pull_one
from bus.streams import StreamError, ensure_consumer, queue_consumer
from bus.subjects import (
    BATCH_EVENT,
    BATCH_FEED,
    FAIL_BATCH,
    FINISH_BATCH,
    GET_BATCH,
    GET_FILE,
    LIST_MODELS,
    PUT_FILE,
    START_BATCH,
    unescape,
)
from eventlog.batch_events import LineError
from http_edge.batches.answers import answer_line
from http_edge.batches.endpoints import ENDPOINTS
from http_edge.batches.plan import InputError, Planner

log = structlog.get_logger()

_DURABLE = "clerk"
# What an edge had in hand when it died is handed out again so many seconds later.
_ACK_WAIT = 10.0
_POLL = 2.0
_AGAIN = 2.0
# After a mistake of ours there is no hurry to make it again.
_LATER = 30.0


class Clerk:
    """Does what is to be done in OpenAI's words for batches, one after the other."""

    def __init__(self, bus: Bus, blobs: Blobs) -> None:
        self._bus = bus
        self._blobs = blobs
        self._awake = asyncio.Event()

    async def run(self) -> None:
        """Work for ever. While the log is away, wait for it."""
        subscription = await self._bus.nc.subscribe(BATCH_FEED, cb=self._on_event)
        try:
            await self._ensure_queue()
            while True:
                await self._handle(await self._next())
        finally:
            await subscription.unsubscribe()

    async def _ensure_queue(self) -> None:
        while True:
            try:
                await ensure_consumer(self._bus.nc, "EVENTS", queue_consumer(_DURABLE, BATCH_EVENT, _ACK_WAIT))
            except (LostError, StreamError) as error:
                # The actors, which make the stream, may still be starting.
                log.info("clerk.waiting", error=str(error))
                await asyncio.sleep(_POLL)
            else:
                return

    async def _next(self) -> Delivery:
        while True:
            self._awake.clear()
            with suppress(LostError):  # The server is away; ask again.
                delivery = await pull_one(self._bus.nc, "EVENTS", _DURABLE)
                if delivery is not None:
                    return delivery
            # What was handed out before and not done wakes nobody, so look from time to time.
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._awake.wait()

    async def _on_event(self, _: Msg) -> None:
        self._awake.set()

    async def _handle(self, delivery: Delivery) -> None:
        # fusion.event.batch.<batch id>.<what>
        batch_id = unescape(delivery.subject.split(".")[3])
        try:
            async with _kept(delivery):
                await self._do(batch_id)
        except BusError as error:
            log.warning("batch.waiting", batch_id=batch_id, error=str(error))
            await delivery.nak(_AGAIN)
        except Exception:
            # The last door: the edge goes on, and the log has the traceback.
            log.exception("batch.crashed", batch_id=batch_id)
            await self._give_up(batch_id)
            await delivery.nak(_LATER)
        else:
            await delivery.ack()

    async def _give_up(self, batch_id: str) -> None:
        """Fail a batch whose file cannot be read for a mistake of ours. One that has run waits for a better version."""
        mistake = LineError(
            code="internal_error", message="The server made a mistake on this file; its log says which."
        )
        with suppress(BusError):
            await self._bus.ask(FAIL_BATCH(), FailBatch(batch_id=batch_id, errors=(mistake,)))

    async def _do(self, batch_id: str) -> None:
        """Do what the batch waits for by now, if anything: an event may be told twice, or late."""
        try:
            batch = await self._bus.ask(GET_BATCH(), GetBatch(batch_id=batch_id))
        except RefusedError:
            return  # The log has forgotten its beginning.
        if batch.status == "validating":
            await self._start(batch)
        elif batch.outcomes_blob is not None and batch.status in {"finalizing", "cancelling"}:
            await self._finish(batch)

    async def _start(self, batch: BatchReply) -> None:
        try:
            start = await self._plan(batch)
        except InputError as error:
            await self._bus.ask(FAIL_BATCH(), FailBatch(batch_id=batch.batch_id, errors=error.errors))
        else:
            await self._bus.ask(START_BATCH(), start)

    async def _plan(self, batch: BatchReply) -> StartBatch:
        endpoint = ENDPOINTS.get(batch.endpoint)
        if endpoint is None:  # It did not come over HTTP.
            raise _input_error("invalid_request", f"A batch cannot be for '{batch.endpoint[:80]}'.", "endpoint")
        file = await self._content(batch.input_file_id)
        if file is None:
            raise _input_error("file_not_found", "The input file is gone.", "input_file_id")
        planner = Planner(batch.endpoint, endpoint, await self._cards())
        async with self._blobs.writing() as draft:
            await asyncio.to_thread(_plan, planner, file, draft)
        return StartBatch(batch_id=batch.batch_id, plan_blob=draft.name, total=planner.total)

    async def _cards(self) -> dict[str, ModelCard]:
        models = (await self._bus.ask(LIST_MODELS(), ListModels())).models
        return {name: card for card in models for name in (*card.aliases, card.id)}

    async def _content(self, file_id: str) -> Path | None:
        try:
            file = await self._bus.ask(GET_FILE(), GetFile(file_id=file_id))
        except RefusedError:
            return None
        return await self._blobs.find(file.blob)

    async def _finish(self, batch: BatchReply) -> None:
        async with self._blobs.writing() as answers, self._blobs.writing() as errors:
            with ExitStack() as opened:
                plan = await self._opened(batch.plan_blob, opened)
                outcomes = await self._opened(batch.outcomes_blob, opened)
                if plan and outcomes:
                    await self._write(batch, (plan, outcomes), (answers, errors))
                else:
                    log.error("batch.lost", batch_id=batch.batch_id)
        finished = FinishBatch(
            batch_id=batch.batch_id,
            output_file_id=await self._put(batch, "output", answers),
            error_file_id=await self._put(batch, "error", errors),
        )
        await self._bus.ask(FINISH_BATCH(), finished)

    async def _opened(self, name: str | None, opened: ExitStack) -> BinaryIO | None:
        file = await self._blobs.open(name) if name else None
        return opened.enter_context(file) if file else None

    async def _write(self, batch: BatchReply, lines: tuple[BinaryIO, BinaryIO], drafts: tuple[Draft, Draft]) -> None:
        endpoint = ENDPOINTS[batch.endpoint]
        for _ in range(batch.total):
            plan, ended = await asyncio.to_thread(lambda: [each.readline() for each in lines])
            outcome = _outcome.decode(ended)
            result = await self._blobs.get(outcome.result_blob) if outcome.result_blob else None
            line = await asyncio.to_thread(answer_line, endpoint, plan, outcome, result)
            await asyncio.to_thread(drafts[0 if line.is_answer else 1].write, _encode(line) + b"\n")

    async def _put(self, batch: BatchReply, what: str, draft: Draft) -> str | None:
        """Keep the file under an id that follows from the batch: done twice, it is one file."""
        if not draft.size:
            return None
        file = PutFile(
            file_id=f"file-{batch.batch_id}_{what}",
            filename=f"{batch.batch_id}_{what}.jsonl",
            purpose="batch_output",
            bytes=draft.size,
            blob=draft.name,
            key=batch.key,
        )
        return (await self._bus.ask(PUT_FILE(), file)).file_id


def _input_error(code: str, message: str, param: str) -> InputError:
    return InputError((LineError(code=code, message=message, param=param),))


def _plan(planner: Planner, file: Path, draft: Draft) -> None:
    with file.open("rb") as lines:
        planner.plan(lines, draft)


@asynccontextmanager
async def _kept(delivery: Delivery) -> AsyncGenerator[None]:
    """Keep the delivery from being handed to another while the block runs; give it back when it is cancelled."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(_ACK_WAIT / 3)
            await delivery.in_progress()

    keeping = asyncio.create_task(keep())
    try:
        yield
    except asyncio.CancelledError:
        await delivery.nak(0)
        raise
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


_outcome = msgspec.json.Decoder(RequestOutcome)
_encode = msgspec.json.Encoder().encode
