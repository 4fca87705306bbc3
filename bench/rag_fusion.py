"""A whole Fusion whose only model is all-MiniLM-L6-v2, and what the benchmarks of RAG have it do over NATS."""

import json
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from bench.processes import answering, started
from bench.rag_sets import Vectors
from bus.blobs import Blobs
from bus.client import Bus
from bus.config import BusConfig
from bus.frames import Status
from bus.messages.rag_documents import CHUNKS_TYPE, DocumentOutcome, DocumentSource, GivenChunk, IngestDocuments
from bus.server import free_port
from bus.subjects import INGEST_DOCUMENTS
from cli.state import read_running

_MODEL = "all-MiniLM-L6-v2"
_AT_ONCE = 500

_encode = msgspec.json.Encoder().encode


class Given(Struct, frozen=True):
    """A document in chunks, each with its vector."""

    document_id: str
    texts: Sequence[str]
    vectors: Vectors


class Fusion(Struct, frozen=True):
    """A running Fusion, and the way to it."""

    bus: Bus
    url: str
    state: Path

    @property
    def rag(self) -> psutil.Process:
        """The process of the rag actor."""
        return psutil.Process(read_running(self.state).processes["rag"])

    async def ingest(self, documents: Iterable[Given], collection: str) -> float:
        """Store the documents and return how many seconds that took. Raises `LookupError` if one is not stored."""
        blobs = Blobs(self.state / "blobs")
        waiting = iter(documents)
        seconds = 0.0
        while some := list(islice(waiting, _AT_ONCE)):
            sources = [await _source(blobs, each) for each in some]
            begun = time.perf_counter()
            for outcome in await self._stored(sources, collection):
                if outcome.status not in {"stored", "replaced"}:
                    raise LookupError(f"{outcome.document_id} is {outcome.status}: {outcome.error}")
            seconds += time.perf_counter() - begun
        return seconds

    async def _stored(self, sources: Sequence[DocumentSource], collection: str) -> tuple[DocumentOutcome, ...]:
        request = IngestDocuments(documents=tuple(sources), collection=collection, embedding_model=_MODEL)
        done: tuple[DocumentOutcome, ...] = ()
        async with self.bus.stream(INGEST_DOCUMENTS(), request) as answer:
            async for item in answer:
                if not isinstance(item, Status) and item.result is not None:
                    done = item.result.documents
        return done


async def _source(blobs: Blobs, document: Given) -> DocumentSource:
    rows = document.vectors.tolist()
    chunks = [GivenChunk(text=text, embedding=tuple(row)) for text, row in zip(document.texts, rows, strict=True)]
    blob = await blobs.put(_encode(chunks))
    return DocumentSource(document_id=document.document_id, blob=blob, content_type=CHUNKS_TYPE)


@asynccontextmanager
async def fusion(folder: Path, **rag: float) -> AsyncGenerator[Fusion]:
    """Run it in `folder` until the block ends, with these settings of `rag`."""
    port = free_port()
    entry = {"id": _MODEL, "path": "embedded:minilm", "kind": "embeddings", "tier": 0}
    config = {"actors": {"slots": 0}, "rag": rag, "models": [entry]}
    (folder / "fusion.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML too.
    state = folder / "state"
    argv = [sys.executable, "-m", "cli", "up", "--config", str(folder / "fusion.yaml"), "--state-dir", str(state)]
    argv += ["--port", str(port), "--nats-port", str(free_port())]
    url = f"http://127.0.0.1:{port}"
    async with started(argv, folder / "fusion.log"):
        await answering(f"{url}/readyz")
        async with Bus.connect("bench", BusConfig(url=read_running(state).nats_url)) as bus:
            yield Fusion(bus, url, state)
