"""Jobs that the rag actor does: no model is looked up for them, and they tell how far they are."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from bus.messages.jobs import JobProgress, ReplayJob
from bus.messages.rag_documents import DocumentOutcome, IngestDocuments, IngestProgress, IngestResult
from bus.serve import Caller, Endpoint, serving
from bus.subjects import INGEST_DOCUMENTS, REPLAY_JOB
from tests.support import make
from tests.support.jobs import World, living, world
from tests.support.nats import Server, service, until, until_it

OUTCOME = DocumentOutcome(filename="a.txt", status="stored", document_id="doc-1", chunks=1)
RESULT = IngestResult(
    collection="default",
    documents=(OUTCOME,),
    documents_ingested=1,
    chunks_created=1,
    embedding_time_ms=5,
    chunk_size=254,
    overlap=64,
)
INPUT = msgspec.Raw(b'{"documents": [{"filename": "a.txt", "text": "It rains."}]}')


class Ingest:
    """Deals with one document, and waits at the gate before it says so of all."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.keys: list[str | None] = []
        self.closed = 0

    async def receive(self, _: IngestDocuments, caller: Caller) -> AsyncGenerator[IngestProgress]:
        self.keys.append(caller.key)
        try:
            yield IngestProgress(done=0, total=1)
            yield IngestProgress(done=1, total=1, document=OUTCOME)
            yield IngestProgress(done=1, total=1)
            await self.gate.wait()
            yield IngestProgress(done=1, total=1, result=RESULT)
        finally:
            self.closed += 1


async def says(fusion: World, progress: JobProgress) -> bool:
    return (await fusion.get()).progress == progress


async def test_ingest_tells_how_far_it_is_and_leaves_its_result(server: Server, tmp_path: Path) -> None:
    ingest = Ingest()
    async with world(server, tmp_path) as fusion:
        async with serving(fusion.bus, service("rag"), Endpoint(INGEST_DOCUMENTS(), ingest.receive)):
            queued = await fusion.submit(model="rag", operation="rag.ingest", input=INPUT, key="key-1")
            async with living(fusion.worker("rag-1", model="rag")):
                await until_it(lambda: says(fusion, JobProgress(done=1, total=1, message="a.txt: stored")))
                ingest.gate.set()
                await fusion.ended()
                job = await fusion.get()
                again = await fusion.bus.ask(REPLAY_JOB(), ReplayJob(job_id=make.JOB_ID))

    assert (queued.status, queued.progress) == ("queued", None)
    assert msgspec.json.decode(job.result, type=IngestResult) == RESULT
    assert job.progress is None
    assert ingest.keys[0] == "key-1"
    assert (again.model, again.operation, again.replay_of) == ("rag", "rag.ingest", make.JOB_ID)


async def test_cancelled_ingest_ends_where_it_is(server: Server, tmp_path: Path) -> None:
    ingest = Ingest()
    async with world(server, tmp_path) as fusion:
        async with serving(fusion.bus, service("rag"), Endpoint(INGEST_DOCUMENTS(), ingest.receive)):
            await fusion.submit(model="rag", operation="rag.ingest", input=INPUT)
            async with living(fusion.worker("rag-1", model="rag")):
                await until_it(lambda: says(fusion, JobProgress(done=1, total=1, message="a.txt: stored")))
                await fusion.cancel()
                kinds = await fusion.ended()
                await until(lambda: ingest.closed)

    assert kinds[-1] == "JobCancelled"
