"""What the routes of RAG share: asking the rag actor, and what is told of a passage."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from bus.client import Bus
from bus.decoding import decode
from bus.errors import LostError, RefusedError
from bus.frames import Status
from bus.inbox import Answer
from bus.messages.rag import Hit, Passage
from bus.messages.rag_documents import GetCollection
from bus.subjects import GET_COLLECTION, Address
from http_edge.context import BUS, REQUEST_ID
from http_edge.keys import fingerprint

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

_ABSENT = (
    "RAG does not run here. `fusion up` starts it where its packages are installed: pip install 'mlx-fusion[rag]'."
)


class Source(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A chunk, as `Hit` has it. `metadata` has the `file` and the first `page` beside what is known of the document."""

    chunk_id: str
    document_id: str
    collection: str
    text: str
    metadata: dict[str, Any]
    start: int
    end: int
    score: float | None = None
    pages: tuple[int, int] | None = None
    headings: tuple[str, ...] = ()
    cosine: float | None = None
    bm25: float | None = None
    rerank: float | None = None
    parent: Passage | None = None


def source_of(hit: Hit, *, with_score: bool = True) -> Source:
    """Return what a client is told of `hit`."""
    place = {"file": hit.filename} if hit.pages is None else {"file": hit.filename, "page": hit.pages[0]}
    return Source(
        chunk_id=hit.chunk_id,
        document_id=hit.document_id,
        collection=hit.collection,
        text=hit.text,
        metadata=place | hit.metadata,
        start=hit.start,
        end=hit.end,
        score=hit.score if with_score else None,
        pages=hit.pages,
        headings=hit.headings,
        cosine=hit.cosine,
        bm25=hit.bm25,
        rerank=hit.rerank,
        parent=hit.parent,
    )


@asynccontextmanager
async def asking_rag(
    request: web.Request, address: Address[RequestT, ReplyT], message: RequestT
) -> AsyncGenerator[Answer[ReplyT]]:
    """Ask the rag actor for the client, whose API key decides what it sees where collections are private.

    Raises as `Bus.stream` does, and says so where there is no rag process.
    """
    bus = request.app[BUS]
    there = _instances(bus)
    try:
        async with (
            bus.stream(address, message, request_id=request[REQUEST_ID], key=fingerprint(request)) as answer,
            _ending_with(there, bus, answer),
        ):
            yield answer
    except LostError as error:
        if error.code != "unavailable" or _instances(bus):
            raise
        raise LostError("unavailable", _ABSENT, retry_after=error.failure.retry_after) from error


def _instances(bus: Bus) -> frozenset[str]:
    return frozenset(beat.instance for beat in bus.presence.instances if beat.role == "rag")


@asynccontextmanager
async def _ending_with(there: frozenset[str], bus: Bus, answer: Answer[ReplyT]) -> AsyncGenerator[None]:
    """Have `answer` end when these instances do: one that is no stream does not tell which of them gives it."""

    async def watch() -> None:
        await bus.presence.until(lambda beats: there.isdisjoint(beat.instance for beat in beats))
        answer.put(LostError("crashed", "The rag process has ended.", retry_after=1))

    watching = asyncio.create_task(watch()) if there else None
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def ask_rag(request: web.Request, address: Address[RequestT, ReplyT], message: RequestT) -> ReplyT:
    """Return the last piece of the rag actor's answer. Raises as `asking_rag` does."""
    last: ReplyT | None = None
    async with asking_rag(request, address, message) as answer:
        async for item in answer:
            last = last if isinstance(item, Status) else item
    if last is None:
        raise LostError("stream_broken", f"An empty answer came on {address.name}.")
    return last


async def require_rag(request: web.Request) -> None:
    """Raise `LostError` where there is no rag actor, before a body is read that is for it."""
    with suppress(RefusedError):
        await ask_rag(request, GET_COLLECTION(), GetCollection(collection="default"))


def json_object(text: str | None, param: str) -> dict[str, Any]:
    """Return the JSON object that `param` of a query string or a form is, `{}` unsaid. Raises `RefusedError`."""
    if text is None:
        return {}
    try:
        return decode(_object, text.encode(errors="surrogateescape"))
    except RefusedError as error:
        raise RefusedError("invalid_request", f"'{param}' has to be a JSON object.", param=param) from error


_object = msgspec.json.Decoder(dict[str, Any])
