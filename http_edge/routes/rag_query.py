"""POST /api/rag/query, and /rag_query: an answer from what is found, whole or streamed."""

from typing import Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from bus.errors import LostError
from bus.frames import Status
from bus.messages.chat import ChatChunk, Message
from bus.messages.rag import Answer, Citation, MaxTokens, QueryChunk, QueryDocuments, SearchResults, Seed, Temperature
from bus.subjects import QUERY_DOCUMENTS
from http_edge.errors import STATUSES, ErrorBody, code_of
from http_edge.generation import WireUsage, wire_usage
from http_edge.rag import Source, asking_rag
from http_edge.routes.rag_search import Body as SearchBody
from http_edge.routes.rag_search import Found, found, naming_as_clients, search_of
from http_edge.sse import event_stream
from http_edge.wire import ModelName, read_body
from http_edge.writing import large_json_response


class Turn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was said before."""

    role: Literal["user", "assistant"]
    content: str


class Body(SearchBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends: a search, and how it is to be answered. `model_id` is a chat model."""

    model_id: ModelName | None = None
    include_sources: bool = True
    messages: tuple[Turn, ...] = ()
    stream: bool = False
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    seed: Seed | None = None


class Answered(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer. `error` says why there is none although there are sources; `found` is false if there are none."""

    answer: str
    sources: tuple[Source, ...]
    citations: tuple[Citation, ...]
    found: bool
    model: str
    retrieval_latency_ms: int
    generation_latency_ms: int
    degraded: bool
    warnings: tuple[str, ...]
    finish_reason: str | None = None
    usage: WireUsage | None = None
    error: ErrorBody | None = None


class Delta(Struct, frozen=True, omit_defaults=True):
    """A piece of the answer, or of what the model thinks before."""

    text: str = ""
    reasoning: str = ""


async def query(request: web.Request) -> web.StreamResponse:
    """Answer a question from what is found."""
    body = await read_body(request, _body)
    message = QueryDocuments(
        search=search_of(body),
        model=body.model_id,
        messages=tuple(Message(role=turn.role, content=turn.content) for turn in body.messages),
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        seed=body.seed,
    )
    with naming_as_clients(body, "messages"):
        if body.stream:
            return await _stream(request, message, with_sources=body.include_sources)
        return await _whole(request, message, with_sources=body.include_sources)


async def _whole(request: web.Request, message: QueryDocuments, *, with_sources: bool) -> web.StreamResponse:
    told = _Told(with_sources=with_sources)
    async with asking_rag(request, QUERY_DOCUMENTS(), message) as answer:
        async for item in answer:
            if not isinstance(item, Status):
                told.frames(item)
    return await large_json_response(request, told.whole())


async def _stream(request: web.Request, message: QueryDocuments, *, with_sources: bool) -> web.StreamResponse:
    told, has_waited = _Told(with_sources=with_sources), False
    async with asking_rag(request, QUERY_DOCUMENTS(), message) as answer, event_stream(request) as stream:
        async for item in answer:
            if not isinstance(item, Status):
                await stream.write(told.frames(item))
                continue
            # The first comes at once, and what is wrong with the search can still be told by the status line.
            if has_waited or told.results is not None:
                await stream.wait_at(item)
            has_waited = True
        await stream.write(_frame("final", told.whole()))
        return stream.response


class _Told:
    """What has come of one answer."""

    def __init__(self, *, with_sources: bool) -> None:
        self.results: SearchResults | None = None
        self._with_sources = with_sources
        self._answer: Answer | None = None

    def frames(self, chunk: QueryChunk) -> bytes:
        """Take `chunk` in, and return the frames that tell of it; the last one is not in them."""
        frames = b""
        if chunk.results is not None:
            self.results = chunk.results
            frames += _frame("search_results", self._found(chunk.results))
        if chunk.text or chunk.reasoning:
            frames += _frame("delta", Delta(chunk.text, chunk.reasoning))
        if chunk.citation is not None:
            frames += _frame("citation", chunk.citation)
        self._answer = chunk.answer or self._answer
        return frames

    def whole(self) -> Answered:
        """Return the whole answer. Raises `LostError` when it did not come."""
        results, answer = self.results, self._answer
        if results is None or answer is None:
            raise LostError("stream_broken", "The answer ended without saying why.")
        told = self._found(results)
        return Answered(
            answer=answer.text,
            sources=told.sources,
            citations=answer.citations,
            found=answer.found,
            model=answer.model,
            retrieval_latency_ms=round(answer.retrieval_seconds * 1000),
            generation_latency_ms=round(answer.generation_seconds * 1000),
            degraded=told.degraded or answer.error is not None,
            warnings=told.warnings + answer.warnings,
            finish_reason=answer.finish_reason,
            usage=None if answer.usage is None else wire_usage(ChatChunk(usage=answer.usage)),
            error=_error(answer),
        )

    def _found(self, results: SearchResults) -> Found:
        return found(results if self._with_sources else msgspec.structs.replace(results, hits=()))


def _error(answer: Answer) -> ErrorBody | None:
    if answer.error is None:
        return None
    code = code_of(answer.error_code)
    return ErrorBody(message=answer.error, type=STATUSES[code][1], param=None, code=code)


def _frame(event: str, told: Struct) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), msgspec.json.encode(told))


_body = msgspec.json.Decoder(Body)

ROUTES = [web.post("/api/rag/query", query), web.post("/rag_query", query)]
