"""The rag actor: takes documents in, and answers from them.

Listens on  fusion.rag.>, fusion.wake.*.rag.*
Owns        the library: the projection of the log of documents, its indexes, and the blobs of documents
Never       answers before it has taken in what the log has
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from actors.attempt import WorkerConfig
from actors.configuration import Configuration
from actors.rag.answer import Answers
from actors.rag.documents import Documents
from actors.rag.embedders import Embedders
from actors.rag.evaluation import Evaluations
from actors.rag.ingest import Ingest
from actors.rag.library import Library
from actors.rag.log import Projector
from actors.rag.parsing import Parser, ParserLimits
from actors.rag.reading import Reader
from actors.rag.retrieval import Retrieval
from actors.rag.shelf import Shelf
from actors.rag.writer import Writer
from actors.supervisor import Child, supervising
from actors.worker import Worker
from actors.worker import child as worker_child
from bus.blobs import Blobs
from bus.client import Bus
from bus.events import EventLog
from bus.serve import Endpoint, ServiceInfo, serving
from bus.subjects import (
    DELETE_COLLECTION,
    DELETE_DOCUMENTS,
    EVALUATE_SEARCH,
    GET_CHUNK,
    GET_COLLECTION,
    GET_DOCUMENT,
    INGEST_DOCUMENTS,
    LIST_COLLECTIONS,
    LIST_DOCUMENTS,
    QUERY_DOCUMENTS,
    REBUILD_COLLECTION,
    SEARCH_DOCUMENTS,
    VERIFY_COLLECTION,
)

OnOpen = Callable[[], Awaitable[None]]

_NAME = "rag"
# Jobs that run at a time; few documents are read at once, whoever gave them.
_JOBS = 4
# The others of `fusion up` wait no longer for a log that is read again from its beginning.
_PATIENCE = 10.0


class Rag:
    """The parts of the actor over one library."""

    def __init__(self, bus: Bus, config: Configuration, instance: str, library: Library) -> None:
        rag = config.rag
        limits = ParserLimits(most_bytes=rag.max_file_bytes, seconds=rag.parse_seconds, address_bytes=rag.parse_bytes)
        self.shelf = Shelf(config.bus.rag_blobs, library.named)
        self.projector = Projector(bus, library, self.shelf.blobs)
        self.embedders = Embedders(bus, rag.embedding_model)
        self.parser = Parser(limits)
        writer = Writer(EventLog(bus), self.projector, library)
        reader = Reader(self.parser, self.embedders)
        self._ingest = Ingest(library, writer, self.shelf, Blobs(config.bus.blobs), reader, rag)
        self._documents = Documents(bus, instance, library, writer, self.shelf, is_private=rag.private_collections)
        self._retrieval = Retrieval(bus, library, self.embedders, rag)
        self._answers = Answers(bus, self._retrieval, rag, instance)
        self._evaluations = Evaluations(self._retrieval, instance)

    @property
    def endpoints(self) -> tuple[Endpoint[Any, Any], ...]:
        """What is answered, and by whom."""
        documents = self._documents
        return (
            Endpoint(INGEST_DOCUMENTS(), self._ingest.receive),
            Endpoint(SEARCH_DOCUMENTS(), self._retrieval.receive),
            Endpoint(QUERY_DOCUMENTS(), self._answers.receive),
            Endpoint(EVALUATE_SEARCH(), self._evaluations.receive),
            Endpoint(LIST_COLLECTIONS(), documents.list_collections),
            Endpoint(GET_COLLECTION(), documents.get_collection),
            Endpoint(DELETE_COLLECTION(), documents.delete_collection),
            Endpoint(REBUILD_COLLECTION(), documents.rebuild_collection),
            Endpoint(VERIFY_COLLECTION(), documents.verify_collection),
            Endpoint(LIST_DOCUMENTS(), documents.list_documents),
            Endpoint(GET_DOCUMENT(), documents.get_document),
            Endpoint(DELETE_DOCUMENTS(), documents.delete_documents),
            Endpoint(GET_CHUNK(), documents.get_chunk),
        )


async def _room() -> None:
    """There is always room: documents wait for each other by themselves."""


def _worker(bus: Bus, config: Configuration, instance: str) -> Worker:
    actors = config.actors
    settings = WorkerConfig(
        concurrency=_JOBS,
        max_attempts=actors.job_max_attempts,
        run_timeout=actors.job_run_timeout,
        drain=actors.drain_seconds,
        ack_wait=actors.job_ack_wait,
    )
    return Worker(bus, Blobs(config.bus.blobs), _NAME, instance, settings)


async def _answer(rag: Rag, bus: Bus, config: Configuration, instance: str, on_open: OnOpen) -> None:
    """Follow the log, and answer once what had happened before is in."""
    info = ServiceInfo(name="fusion-rag", instance=instance, description="Documents, and what is found in them")
    async with asyncio.TaskGroup() as group:
        following = group.create_task(rag.projector.run())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await rag.projector.caught_up.wait()
            await on_open()
            await rag.projector.caught_up.wait()
            worker = worker_child(_worker(bus, config, instance), _room, _NAME)
            # The worker ends first, for its jobs are answered here.
            async with serving(bus, info, *rag.endpoints, drain=config.actors.drain_seconds), supervising(worker):
                await rag.shelf.sweep()
        finally:
            following.cancel()
            await rag.parser.close()


def child(bus: Bus, config: Configuration, instance: str, on_open: OnOpen) -> Child:
    """Return what the supervisor needs to run this actor. `on_open` hears when nobody need wait for it any more."""

    async def run() -> None:
        library = Library(config.bus.rag, config.rag)
        try:
            await library.open()
            async with asyncio.TaskGroup() as group:
                building = group.create_task(library.run())
                try:
                    await _answer(Rag(bus, config, instance, library), bus, config, instance, on_open)
                finally:
                    building.cancel()
        finally:
            await library.close()

    return Child(_NAME, run)
