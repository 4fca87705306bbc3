"""The edge with all that batches need: models, a log, the actors of jobs, files and batches, workers, and a clerk."""

import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch

from actors import batches, files, jobs
from actors.attempt import WorkerConfig
from actors.config import ActorsConfig
from actors.engines.echo import EchoEmbeddings, EchoReranker
from actors.worker import Worker
from bus.client import Bus
from bus.errors import LostError, RefusedError
from bus.messages.batches import GetBatch
from bus.messages.files import GetFile
from bus.streams import ensure_streams
from bus.subjects import GET_BATCH, GET_FILE
from http_edge.batches.clerk import Clerk
from http_edge.config import EdgeConfig
from tests.support.jobs import finding, living, room, served
from tests.support.models_owner import catalogue
from tests.support.nats import until_it
from tests.support.stack import (
    CARDS,
    CHAT_MODEL,
    EMBED_MODEL,
    RERANK_CARD,
    RERANK_MODEL,
    Stack,
    chat_actor,
    chat_body,
    embeddings_actor,
    rerank_actor,
    stack,
)

ENDS = {"completed", "failed", "expired", "cancelled"}


@asynccontextmanager
async def batching(
    nats_url: str,
    folder: Path,
    engine: Any,
    config: EdgeConfig | None = None,
    *,
    max_queued: int = 1000,
    **worker: float,
) -> AsyncGenerator[Stack]:
    """Serve CHAT_MODEL with `engine`, EMBED_MODEL and RERANK_MODEL with echoes, and run jobs and batches for them."""
    values = {"concurrency": 8, "max_attempts": 2, "run_timeout": 30.0, "drain": 0.0} | worker
    async with stack(nats_url, folder, config) as edge:
        await ensure_streams(edge.bus.nc, keep_days=7)
        workers = [
            Worker(edge.bus, edge.blobs, model, f"{model}-1", WorkerConfig(**values)).run(room)  # type: ignore[arg-type]
            for model in (CHAT_MODEL, EMBED_MODEL, RERANK_MODEL)
        ]
        known = (*CARDS, RERANK_CARD)
        cards = {card.id: card for card in known}
        settings = ActorsConfig(max_queued_jobs=max_queued)
        async with (
            catalogue(edge.bus, known),
            chat_actor(edge.bus, engine),
            embeddings_actor(edge.bus, EchoEmbeddings()),
            rerank_actor(edge.bus, EchoReranker()),
            living(
                jobs.child(edge.bus, edge.blobs, finding(cards), settings, "jobs-1").run(),
                files.child(edge.bus, 7, "files-1").run(),
                batches.child(edge.bus, edge.blobs, "batches-1").run(),
                Clerk(edge.edge_bus, edge.blobs).run(),
                *workers,
            ),
        ):
            await until_it(lambda: served(edge.bus))
            await until_it(lambda: batches_served(edge.bus))
            yield edge


async def batches_served(bus: Bus) -> bool:
    """Say whether the actors of files and batches answer."""
    for address, question in ((GET_FILE(), GetFile(file_id="file-0")), (GET_BATCH(), GetBatch(batch_id="batch_0"))):
        try:
            await bus.ask(address, question)
        except RefusedError:
            continue
        except LostError:
            return False
    return True


def line(custom_id: str, body: dict[str, Any] | None = None, **more: Any) -> bytes:
    """Return a line of a batch's input; a chat of three words unless said otherwise."""
    values = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body or chat_body()}
    return json.dumps(values | more).encode()


async def submit(
    openai: AsyncOpenAI, lines: Iterable[bytes], endpoint: Any = "/v1/chat/completions", **more: Any
) -> Batch:
    """Upload `lines`, and return the batch of them."""
    file = await openai.files.create(file=("input.jsonl", b"\n".join(lines)), purpose="batch")
    return await openai.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


async def ended(openai: AsyncOpenAI, batch_id: str, seconds: float = 60.0) -> Batch:
    """Wait until the batch has ended, and return it."""

    async def has_ended() -> bool:
        return (await openai.batches.retrieve(batch_id)).status in ENDS

    await until_it(has_ended, seconds)
    return await openai.batches.retrieve(batch_id)


async def answers(openai: AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """Return the lines of an output or error file by their `custom_id`; each has to be there once."""
    if file_id is None:
        return {}
    lines = [json.loads(each) for each in (await openai.files.content(file_id)).text.splitlines()]
    found = {each["custom_id"]: each for each in lines}
    assert len(found) == len(lines)
    return found
