"""The rag actor over a real nats-server, in this process or in one of its own, with a model of a few lines."""

import asyncio
import os
import re
import signal
import sys
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from actors import jobs
from actors.config import ActorsConfig
from actors.configuration import Configuration
from actors.rag import actor
from actors.rag.config import RagConfig
from bus.blobs import Blobs
from bus.client import Bus
from bus.config import BusConfig, NatsConfig
from bus.errors import LostError, RefusedError
from bus.heartbeat import say
from bus.ids import new_id
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.messages.jobs import GetJob, JobReply, SubmitJob
from bus.messages.models import GetModel, ListModels, ModelCard, ModelList
from bus.messages.presence import Heartbeat
from bus.messages.rag import SearchDocuments, SearchResults
from bus.messages.rag_documents import (
    CollectionList,
    DeleteDocuments,
    DocumentCard,
    DocumentList,
    DocumentsDeleted,
    DocumentSource,
    IngestDocuments,
    IngestProgress,
    IngestResult,
    ListCollections,
    ListDocuments,
    Verified,
    VerifyCollection,
)
from bus.serve import Caller, Endpoint, serving
from bus.streams import ensure_streams
from bus.subjects import (
    DELETE_DOCUMENTS,
    EMBED,
    GET_JOB,
    GET_MODEL,
    INGEST_DOCUMENTS,
    LIST_COLLECTIONS,
    LIST_DOCUMENTS,
    LIST_MODELS,
    SEARCH_DOCUMENTS,
    SUBMIT_JOB,
    VERIFY_COLLECTION,
)
from tests.support.jobs import living
from tests.support.nats import Server, connected, service, until_it
from tests.support.processes import REPOSITORY
from tests.support.tiny_bert import MAX_TOKENS, write_tiny_bert

MODEL = "local/words"
DIMENSIONS = 64
KEY = "key-0123456789ab"


class Words:
    """An embedding model: the vector of a text is which words it has. The errors come first.

    The gate holds it up: one text of several is done before.
    """

    def __init__(self, folder: Path, *errors: Exception, model: str = MODEL) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[EmbedRequest] = []
        self.card = ModelCard(
            id=model,
            kind="embeddings",
            tier=0,
            state="ready",
            created=0,
            context_length=MAX_TOKENS,
            dimensions=DIMENSIONS,
            path=str(folder),
        )
        # What the catalogue has.
        self.cards = [self.card]
        self._errors = list(errors)

    def fail(self, *errors: Exception) -> None:
        """Have the next requests fail."""
        self._errors += errors

    async def embed(self, request: EmbedRequest, _: Caller) -> AsyncGenerator[EmbedChunk]:
        self.asked.append(request)
        if self._errors:
            raise self._errors.pop(0)
        texts = (request.input,) if isinstance(request.input, str) else request.input
        vectors = tuple(vector(str(text)).tobytes() for text in texts)
        if len(vectors) > 1:
            yield EmbedChunk(start=0, vectors=vectors[:1])
        await self.gate.wait()
        first = min(1, len(vectors) - 1)
        yield EmbedChunk(start=first, vectors=vectors[first:], prompt_tokens=1)

    async def get(self, request: GetModel, _: Caller) -> AsyncGenerator[ModelCard]:
        found = next((card for card in self.cards if card.id == request.model), None)
        if found is None:
            raise RefusedError("model_not_found", f"The model '{request.model}' does not exist.", param="model")
        yield found

    async def list(self, _request: ListModels, _: Caller) -> AsyncGenerator[ModelList]:
        yield ModelList(models=tuple(self.cards))

    @property
    def endpoints(self) -> tuple[Endpoint[Any, Any], ...]:
        return (
            Endpoint(EMBED(self.card.id), self.embed),
            Endpoint(GET_MODEL(), self.get),
            Endpoint(LIST_MODELS(), self.list),
        )


def vector(text: str) -> Any:
    """Return the vector of a text."""
    row = np.full(DIMENSIONS, 0.01, np.float32)
    for word in re.findall(r"\w+", text.lower()):
        row[zlib.crc32(word.encode()) % DIMENSIONS] += 1
    return row / np.linalg.norm(row)


class RagWorld:
    """What the rag actor is asked, by somebody else's connection."""

    def __init__(self, bus: Bus, words: Words, config: BusConfig) -> None:
        self.bus = bus
        self.words = words
        self.config = config
        self.given = Blobs(config.blobs)

    def texts(self, **documents: str) -> IngestDocuments:
        """Return the order to store these texts by their ids."""
        sources = tuple(DocumentSource(document_id=each, text=text) for each, text in documents.items())
        return IngestDocuments(documents=sources)

    async def progress(self, request: IngestDocuments, key: str | None = None) -> list[IngestProgress]:
        async with self.bus.stream(INGEST_DOCUMENTS(), request, key=key) as answer:
            return [item async for item in answer if isinstance(item, IngestProgress)]

    async def ingest(self, request: IngestDocuments, key: str | None = None) -> IngestResult:
        result = (await self.progress(request, key))[-1].result
        assert result is not None
        return result

    async def search(self, query: str, key: str | None = None, **fields: Any) -> SearchResults:
        request = SearchDocuments(query=query, **fields)
        async with self.bus.stream(SEARCH_DOCUMENTS(), request, key=key) as answer:
            [found] = [item async for item in answer if isinstance(item, SearchResults)]
            return found

    async def delete(self, collection: str = "default", **fields: Any) -> DocumentsDeleted:
        request = DeleteDocuments(collection=collection, **fields)
        return await self.bus.ask(DELETE_DOCUMENTS(), request, patience=60)

    async def collections(self) -> CollectionList:
        return await self.bus.ask(LIST_COLLECTIONS(), ListCollections(), patience=60)

    async def documents(self, collection: str = "default", **fields: Any) -> dict[str, DocumentCard]:
        found: DocumentList = await self.bus.ask(
            LIST_DOCUMENTS(), ListDocuments(collection=collection, limit=1000, **fields), patience=60
        )
        assert not found.has_more
        return {card.document_id: card for card in found.documents}

    async def verified(self, collection: str = "default") -> Verified:
        async with self.bus.stream(VERIFY_COLLECTION(), VerifyCollection(collection=collection)) as answer:
            [found] = [item async for item in answer if isinstance(item, Verified)]
            return found

    def blobs(self) -> set[str]:
        """Return which blobs lie on the shelf."""
        return {path.name for path in self.config.rag_blobs.glob("??/*")}

    async def answers(self) -> bool:
        try:
            await self.bus.ask(LIST_COLLECTIONS(), ListCollections())
        except LostError:
            return False
        return True


@asynccontextmanager
async def rag_world(server: Server, folder: Path, *errors: Exception, **config: Any) -> AsyncGenerator[RagWorld]:
    """Serve the model, and nobody else yet."""
    async with connected(server.url, state_dir=folder) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        words = Words(_folder(folder), *errors)
        async with serving(bus, service("words", instance="words-1"), *words.endpoints):
            yield RagWorld(bus, words, structs.replace(bus.config, **config))


@asynccontextmanager
async def rag_actor(world: RagWorld, **settings: Any) -> AsyncGenerator[RagWorld]:
    """Serve the rag actor in this process."""
    config = Configuration(
        bus=world.config,
        nats=NatsConfig(),
        actors=ActorsConfig(drain_seconds=0.5),
        rag=RagConfig(**settings),
        models=(),
    )
    opened = asyncio.Event()

    async def on_open() -> None:
        opened.set()

    async with connected(server_url(world), "rag", state_dir=world.config.state_dir) as bus:
        async with living(actor.child(bus, config, "rag-1", on_open).run()) as [task]:
            await until_it(lambda: _answers_or_fails(world, task))
            yield world


async def _answers_or_fails(world: RagWorld, task: "asyncio.Future[None]") -> bool:
    if task.done():
        task.result()
    return await world.answers()


def server_url(world: RagWorld) -> str:
    return world.config.url


@asynccontextmanager
async def jobs_actor(world: RagWorld) -> AsyncGenerator[None]:
    """Serve the jobs actor, which knows no models."""

    async def find(model: str) -> ModelCard:
        raise RefusedError("model_not_found", f"The model '{model}' does not exist.", param="model")

    async with living(jobs.child(world.bus, world.given, find, ActorsConfig(), "jobs-1").run()):
        yield


async def submitted(world: RagWorld, order: IngestDocuments) -> JobReply:
    """Submit the order as a job, as soon as the jobs actor answers."""
    request = SubmitJob(model="rag", operation="rag.ingest", input=msgspec.Raw(msgspec.json.encode(order)))
    replies = list[JobReply]()

    async def is_taken() -> bool:
        with suppress(LostError):
            replies.append(await world.bus.ask(SUBMIT_JOB(), request))
        return bool(replies)

    await until_it(is_taken)
    return replies[-1]


async def finished(world: RagWorld, job_id: str) -> JobReply:
    """Wait until the job has ended, and return it."""
    replies = list[JobReply]()

    async def has_ended() -> bool:
        replies.append(await world.bus.ask(GET_JOB(), GetJob(job_id=job_id)))
        return replies[-1].status in {"completed", "failed", "cancelled"}

    await until_it(has_ended, 60)
    return replies[-1]


class RagProcess:
    """`python -m actors rag`, which may be killed and started again."""

    def __init__(self, world: RagWorld, settings: str) -> None:
        self._world = world
        self._log = world.config.state / "rag.log"
        own = {"FUSION_NATS_URL": world.config.url, "FUSION_STATE_DIR": str(world.config.state)}
        self._environment = os.environ | own
        self._config = world.config.state / "rag.yaml"
        self._config.write_text(f"actors: {{drain_seconds: 0.5}}\nrag: {{{settings}}}\n")
        self._process: asyncio.subprocess.Process | None = None
        self._instance = ""

    async def start(self) -> None:
        """Start it; it answers later."""
        self._instance = f"rag-{new_id()[-8:].lower()}"
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "actors", "rag", "--config", str(self._config), "--instance", self._instance),
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=REPOSITORY,
            )

    async def ready(self) -> None:
        """Return when it answers."""
        await until_it(self._answers, 180)

    async def kill(self) -> None:
        """End it as a crash would, and say so, as the supervisor does."""
        await self._end(signal.SIGKILL)
        await say(self._world.bus, Heartbeat(instance=self._instance, role="rag", state="down", pid=0, at=0.0))

    async def stop(self) -> int:
        """Ask it to end, and return with which status it has."""
        return await self._end(signal.SIGTERM)

    async def ended(self) -> int:
        """Return with which status it ends by itself."""
        assert self._process is not None
        async with asyncio.timeout(180):
            return await self._process.wait()

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    async def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        return await self.ended()

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self.log[-4000:]
        return await self._world.answers()


@asynccontextmanager
async def rag_process(world: RagWorld, settings: str = "") -> AsyncGenerator[RagProcess]:
    """Run the process until the block ends. `settings` are those of RAG, in YAML."""
    process = RagProcess(world, settings)
    await process.start()
    try:
        await process.ready()
        yield process
    finally:
        await process.kill()


def _folder(folder: Path) -> Path:
    path = folder / "model"
    path.mkdir(exist_ok=True)
    return path if (path / "tokenizer.json").is_file() else write_tiny_bert(path)
