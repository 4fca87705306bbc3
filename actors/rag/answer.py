"""Answers questions from documents: searches, has a chat model answer from what was found, and tells what it cites.

Asks       the chat model over the bus, like anyone
Never      asks a model when nothing was found, or gives one tools
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec.structs import replace

from actors.engines.messages import text_of
from actors.rag.chat_models import ChatModels
from actors.rag.citations import Citations
from actors.rag.config import RagConfig
from actors.rag.fitting import Fitted, Question, fitted
from actors.rag.going_on import going_on
from actors.rag.links import unknown_hosts
from actors.rag.prompt import NOT_FOUND
from actors.rag.retrieval import Retrieval
from bus.client import Bus
from bus.errors import BusError, LostError, RefusedError
from bus.frames import Status
from bus.messages.chat import ChatChunk, ChatRequest, Message, Usage
from bus.messages.rag import Answer, QueryChunk, QueryDocuments, SearchResults
from bus.serve import Caller
from bus.subjects import CHAT

# The last turns of the user that are searched for with the question, which may lean on them.
_TURNS = 2
_LONGEST_QUERY = 32_000
# Numbers, or hosts, that a warning names.
_MOST_NAMED = 10


class _Draft:
    """An answer as far as it was written."""

    def __init__(self, retrieval_seconds: float) -> None:
        self.model = ""
        self._text: list[str] = []
        self._citations = Citations({})
        self._warnings: tuple[str, ...] = ()
        self._told = ""
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._retrieval_seconds = retrieval_seconds
        self._begun = time.monotonic()

    def begin(self, told: Fitted) -> None:
        """Take note of what the model is told."""
        self._citations, self._warnings = Citations(told.sources), told.warnings
        self._told = "\n".join(text_of(message) for message in told.messages)

    def take(self, chunk: ChatChunk) -> list[QueryChunk]:
        """Take note of the next piece, and return what there is to tell of it."""
        said = []
        if chunk.text or chunk.reasoning:
            self._text.append(chunk.text)
            said.append(QueryChunk(text=chunk.text, reasoning=chunk.reasoning))
        self._finish_reason, self._usage = chunk.finish_reason, chunk.usage
        return said + [QueryChunk(citation=one) for one in self._citations.feed(chunk.text)]

    @property
    def is_whole(self) -> bool:
        """Whether the last piece has come."""
        return self._finish_reason is not None

    def answer(self, error: BusError | None = None) -> Answer:
        """Return the whole answer, or as much as there is of it when `error` ended it."""
        text = "".join(self._text)
        return Answer(
            text=text,
            found=text.strip() != NOT_FOUND,
            model=self.model,
            citations=tuple(self._citations.found),
            finish_reason=self._finish_reason,
            usage=self._usage,
            error_code=error.code if error else None,
            error=str(error) if error else None,
            retrieval_seconds=self._retrieval_seconds,
            generation_seconds=time.monotonic() - self._begun,
            warnings=(*self._warnings, *self._doubts(text)),
        )

    def _doubts(self, text: str) -> list[str]:
        """Return what the model has from nowhere, in words."""
        doubts = []
        if unknown := self._citations.unknown:
            named = ", ".join(f"[{number}]" for number in list(dict.fromkeys(unknown))[:_MOST_NAMED])
            doubts.append(f"Marks that name no source which the model was given: {len(unknown)} ({named}).")
        if hosts := unknown_hosts(text, self._told):
            doubts.append(
                f"Links in the answer lead to hosts that no source links to: {', '.join(hosts[:_MOST_NAMED])}."
            )
        return doubts


class Answers:
    """Answers from one library, as `instance`."""

    def __init__(self, bus: Bus, retrieval: Retrieval, config: RagConfig, instance: str) -> None:
        self._bus = bus
        self._retrieval = retrieval
        self._models = ChatModels(bus, config.chat_model)
        self._instance = instance

    async def receive(self, request: QueryDocuments, caller: Caller) -> AsyncGenerator[QueryChunk | Status]:
        """Tell what was found, then the answer as it is written. Closing ends the writing.

        Raises `RefusedError` for what cannot be asked, and as a search does. What fails after that is told in the
        answer, so that what was found stays.
        """
        _check(request.messages)
        async with aclosing(going_on(self._search(request, caller), self._instance)) as items:
            async for item in items:
                if isinstance(item, Status):
                    yield item
                else:
                    request, results = item
        yield QueryChunk(results=results)
        draft = _Draft(results.seconds.total)
        error = None
        try:
            async with aclosing(self._written(request, results, draft, caller)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except BusError as failure:
            error = failure
        yield QueryChunk(answer=draft.answer(error))

    async def _search(self, request: QueryDocuments, caller: Caller) -> tuple[QueryDocuments, SearchResults]:
        """Return what was found, and the request with the id of its model."""
        if request.model is not None:
            request = replace(request, model=await self._models.find(request.model))
        search = replace(request.search, query=searched(request.search.query, request.messages))
        return request, await self._retrieval.search(search, caller)

    async def _written(
        self, request: QueryDocuments, results: SearchResults, draft: _Draft, caller: Caller
    ) -> AsyncGenerator[QueryChunk | Status]:
        """Write the answer into `draft`, and tell it piece by piece. Raises `BusError`."""
        if not results.hits:
            for chunk in draft.take(ChatChunk(text=NOT_FOUND, finish_reason="stop")):
                yield chunk
            return
        draft.model = request.model or await self._models.default()
        question = Question(
            text=request.search.query, hits=results.hits, before=request.messages, max_tokens=request.max_tokens
        )
        async with aclosing(going_on(fitted(self._models, draft.model, question), self._instance)) as items:
            async for item in items:
                if isinstance(item, Status):
                    yield item
                else:
                    told = item
        draft.begin(told)
        asked = ChatRequest(
            messages=told.messages, max_tokens=request.max_tokens, temperature=request.temperature, seed=request.seed
        )
        async with aclosing(self._said(draft, asked, caller)) as chunks:
            async for piece in chunks:
                yield piece

    async def _said(self, draft: _Draft, asked: ChatRequest, caller: Caller) -> AsyncGenerator[QueryChunk | Status]:
        address, keep_alive = CHAT(draft.model), caller.keep_alive
        async with self._bus.stream(
            address, asked, request_id=caller.request_id, keep_alive=keep_alive, key=caller.key
        ) as answer:
            async for item in answer:
                if isinstance(item, Status):
                    yield item
                    continue
                for chunk in draft.take(item):
                    yield chunk
        if not draft.is_whole:
            raise LostError("stream_broken", "The answer ended without a reason.")


def searched(query: str, before: Sequence[Message]) -> str:
    """Return what is searched for: the question, and behind it what the user said last, the last turn first."""
    turns = [text_of(message) for message in before if message.role == "user"]
    return "\n".join([query, *reversed(turns[-_TURNS:])])[:_LONGEST_QUERY]


def _check(before: Sequence[Message]) -> None:
    for number, message in enumerate(before):
        if message.role not in ("user", "assistant") or message.tool_calls:
            text = "What was said before are turns of the user and the assistant, without calls of tools."
            raise RefusedError("invalid_request", text, param=f"messages[{number}]")
