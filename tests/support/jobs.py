"""Jobs without a model: the jobs actor, a few-line chat actor, and workers, in this process."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from actors import jobs
from actors.attempt import WorkerConfig
from actors.config import ActorsConfig
from actors.worker import Worker
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import LostError, RefusedError
from bus.events import EventLog
from bus.messages.chat import ChatChunk, ChatRequest, Usage
from bus.messages.jobs import CancelJob, GetJob, JobReply
from bus.messages.models import ModelCard
from bus.serve import Caller, Endpoint, serving
from bus.streams import api, ensure_streams
from bus.subjects import CANCEL_JOB, CHAT, GET_JOB, SUBMIT_JOB
from tests.support import make
from tests.support.nats import Server, connected, service, until_it

CARDS = {
    model: ModelCard(id=model, kind=kind, tier=1, state="ready", created=0)
    for model, kind in ((make.MODEL, "chat"), ("local/embed", "embeddings"))
}
ENDS = {"JobCompleted", "JobFailed", "JobCancelled"}


class Chat:
    """Answers with "one two"; the errors come first, one per request, and the gate is in the middle."""

    def __init__(self, *errors: Exception, gated: bool = False) -> None:
        self.gate = asyncio.Event()
        self.asked: list[str] = []
        self.keys: list[str | None] = []
        self.closed = 0
        self._errors = list(errors)
        if not gated:
            self.gate.set()

    async def receive(self, _: ChatRequest, caller: Caller) -> AsyncGenerator[ChatChunk]:
        self.asked.append(caller.request_id)
        self.keys.append(caller.key)
        try:
            if self._errors:
                raise self._errors.pop(0)
            yield ChatChunk(text="one")
            await self.gate.wait()
            yield ChatChunk(text=" two", finish_reason="stop", usage=Usage(prompt_tokens=3, completion_tokens=2))
        finally:
            self.closed += 1


class World:
    """The parts that a job meets."""

    def __init__(self, bus: Bus, blobs: Blobs) -> None:
        self.bus = bus
        self.blobs = blobs
        self.log = EventLog(bus)

    def worker(self, instance: str = "chat-1", model: str = make.MODEL, **config: float) -> Coroutine[Any, Any, None]:
        values = {"concurrency": 1, "max_attempts": 5, "run_timeout": 60.0, "drain": 0.0, "ack_wait": 30.0} | config
        settings = WorkerConfig(**values)  # type: ignore[arg-type]
        return Worker(self.bus, self.blobs, model, instance, settings).run(room)

    async def submit(self, **fields: Any) -> JobReply:
        return await self.bus.ask(SUBMIT_JOB(), make.submit_job(**({"job_id": make.JOB_ID} | fields)))

    async def queue(self, request: Struct | None = None, **fields: Any) -> int:
        """Record that a job with this input is queued, whatever the jobs actor would say; return its sequence."""
        payload = msgspec.json.encode(request or make.chat_request())
        queued = make.job_queued(**({"input_blob": await self.blobs.put(payload)} | fields))
        return await self.log.record_next(queued, after=0)

    async def cancel(self, job_id: str = make.JOB_ID) -> JobReply:
        return await self.bus.ask(CANCEL_JOB(), CancelJob(job_id=job_id))

    async def get(self, job_id: str = make.JOB_ID) -> JobReply:
        return await self.bus.ask(GET_JOB(), GetJob(job_id=job_id))

    async def kinds(self, job_id: str = make.JOB_ID) -> list[str]:
        return [type(item.event).__name__ for item in await self.log.read_job(job_id)]

    async def ended(self, job_id: str = make.JOB_ID) -> list[str]:
        """Wait until the job has ended, and return the kinds of its events."""

        async def has_ended() -> bool:
            return bool(ENDS & set(await self.kinds(job_id)))

        await until_it(has_ended)
        return await self.kinds(job_id)

    async def waiting(self) -> int:
        """Return how many jobs the work queue holds."""
        return int((await api(self.bus.nc, "STREAM.INFO.JOBS"))["state"]["messages"])

    async def queue_is(self, count: int) -> None:
        async def is_so() -> bool:
            return await self.waiting() == count

        await until_it(is_so)


def finding(cards: dict[str, ModelCard]) -> Callable[[str], Awaitable[ModelCard]]:
    """Return what finds the models of a catalogue that is `cards`."""

    async def find(model: str) -> ModelCard:
        if model not in cards:
            raise RefusedError("model_not_found", f"The model '{model}' does not exist.", param="model")
        return cards[model]

    return find


async def room() -> None:
    """There is always room."""


@asynccontextmanager
async def living(*runs: Awaitable[None]) -> AsyncGenerator[list[asyncio.Future[None]]]:
    """Run these until the block ends."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def world(server: Server, folder: Path, chat: Chat | None = None, **settings: Any) -> AsyncGenerator[World]:
    """Serve the jobs actor, and a chat actor if there is one. `settings` are those of the actors."""
    blobs = Blobs(folder / "blobs")
    async with connected(server.url, monitor_url=server.config.monitor_url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        async with living(jobs.child(bus, blobs, finding(CARDS), ActorsConfig(**settings), "jobs-1").run()):
            await until_it(lambda: served(bus))
            if chat is None:
                yield World(bus, blobs)
                return
            async with serving(bus, service(instance="chat-1"), Endpoint(CHAT(make.MODEL), chat.receive)):
                yield World(bus, blobs)


async def served(bus: Bus) -> bool:
    try:
        await bus.ask(GET_JOB(), GetJob(job_id="job-none"))
    except RefusedError:
        return True
    except LostError:
        return False
    return False
