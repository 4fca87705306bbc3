"""What a job's operation means: the request it makes, and the result it leaves."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from bus.calls import whole_calls
from bus.client import Bus
from bus.decoding import decode
from bus.errors import LostError, RefusedError
from bus.frames import Status
from bus.messages.chat import ChatChunk, ChatRequest, TokenLogprob, ToolCall, Usage
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.messages.jobs import JobProgress
from bus.messages.rag_documents import IngestDocuments
from bus.messages.rerank import RerankChunk, RerankRequest
from bus.messages.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens
from bus.pieces import in_one_piece
from bus.progress import say_progress
from bus.scores import Ranked, all_scores, ranking
from bus.subjects import CHAT, COMPLETE, DETOKENIZE, EMBED, INGEST_DOCUMENTS, RERANK, TOKENIZE, Address, Subject
from eventlog.events import FailureReason
from eventlog.job import Job

# From a subject to where a model answers on it.
Reach = Callable[[Subject[Any, Any]], Address[Any, Any]]

# Of vectors; their JSON, which has three times as many, is in memory twice.
_MOST_BYTES = 64 * 2**20

_encode = msgspec.json.Encoder().encode
_chat_decoder = msgspec.json.Decoder(ChatRequest)
_embed_decoder = msgspec.json.Decoder(EmbedRequest)
_rerank_decoder = msgspec.json.Decoder(RerankRequest)
_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)
_ingest_decoder = msgspec.json.Decoder(IngestDocuments)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation gave: `body` is JSON."""

    body: bytes
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt went: a result, a cancel, a failure with its reason, or an error that may pass."""

    result_blob: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cancelled: bool = False
    reason: FailureReason | None = None
    error: str = ""
    error_code: str | None = None
    error_param: str | None = None
    may_pass: bool = False


class _Usage(msgspec.Struct, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class _ChatResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    content: str
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None
    usage: _Usage
    logprobs: tuple[TokenLogprob, ...] = ()


class _CompleteResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    text: str
    finish_reason: str | None
    usage: _Usage
    logprobs: tuple[TokenLogprob, ...] = ()


class _EmbedResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    embeddings: list[msgspec.Raw]
    usage: dict[str, int]
    truncated: list[int] = []


class _RerankResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    results: tuple[Ranked, ...]
    usage: dict[str, int]
    truncated: tuple[int, ...] = ()


async def run_operation(bus: Bus, reach: Reach, job: Job, payload: bytes) -> Result:
    """Return what the job's operation gives on the model that `reach` leads to; `payload` is its input.

    The job's seed holds where the input names none. Raises `BusError`, as `Bus.stream` does.
    """
    match job.operation:
        case "chat" | "complete":
            subject = CHAT if job.operation == "chat" else COMPLETE
            return await _generate(bus, reach(subject), _seeded(payload, job.seed), job)
        case "embed":
            return await _embed(bus, reach(EMBED), decode(_embed_decoder, payload), job)
        case "rerank":
            return await _rerank(bus, reach(RERANK), decode(_rerank_decoder, payload), job)
        case "tokenize":
            return _plain(await bus.ask(reach(TOKENIZE), decode(_tokenize_decoder, payload)))
        case "detokenize":
            return _plain(await bus.ask(reach(DETOKENIZE), decode(_detokenize_decoder, payload)))
        case "rag.ingest":
            return await _ingest(bus, decode(_ingest_decoder, payload), job)
        case other:
            raise RefusedError("invalid_request", f"This version cannot do '{other}'.", param="operation")


def _seeded(payload: bytes, seed: int | None) -> ChatRequest:
    request = decode(_chat_decoder, payload)
    return replace(request, seed=seed) if request.seed is None else request


async def _generate(bus: Bus, address: Address[ChatRequest, ChatChunk], request: ChatRequest, job: Job) -> Result:
    async with bus.stream(address, request, request_id=job.job_id, key=job.key) as answer:
        said = await in_one_piece(answer)
    usage = said.usage or Usage(prompt_tokens=0, completion_tokens=0)
    read, written = usage.prompt_tokens, usage.completion_tokens
    told = _Usage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details={"cached_tokens": usage.cached_tokens},
    )
    result: _ChatResult | _CompleteResult
    if job.operation == "complete":
        result = _CompleteResult(text=said.text, finish_reason=said.finish_reason, usage=told, logprobs=said.logprobs)
    else:
        result = _ChatResult(
            content=said.text,
            reasoning_content=said.reasoning,
            tool_calls=whole_calls(said.tool_calls),
            finish_reason=said.finish_reason,
            usage=told,
            logprobs=said.logprobs,
        )
    return Result(body=msgspec.json.encode(result), prompt_tokens=read, completion_tokens=written)


async def _embed(bus: Bus, address: Address[EmbedRequest, EmbedChunk], request: EmbedRequest, job: Job) -> Result:
    vectors: list[msgspec.Raw] = []
    truncated: list[int] = []
    read = size = 0
    async with bus.stream(address, request, request_id=job.job_id, key=job.key) as answer:
        async for item in answer:
            if not isinstance(item, Status):
                size += sum(map(len, item.vectors))
                if size > _MOST_BYTES:
                    message = f"The vectors have more than {_MOST_BYTES} bytes. Make several jobs of the inputs."
                    raise RefusedError("too_large", message, param="input")
                # As JSON at once: Python's own numbers take eight times as much memory as the vectors.
                vectors += [msgspec.Raw(_encode(np.frombuffer(vector, "<f4").tolist())) for vector in item.vectors]
                truncated += item.truncated
                read = item.prompt_tokens or read
    usage = {"prompt_tokens": read, "total_tokens": read}
    result = _EmbedResult(embeddings=vectors, usage=usage, truncated=truncated)
    return Result(body=msgspec.json.encode(result), prompt_tokens=read)


async def _rerank(bus: Bus, address: Address[RerankRequest, RerankChunk], request: RerankRequest, job: Job) -> Result:
    async with bus.stream(address, request, request_id=job.job_id, key=job.key) as answer:
        found = ranking([await all_scores(answer)])
    read = found.prompt_tokens
    usage = {"prompt_tokens": read, "total_tokens": read}
    result = _RerankResult(results=found.results, usage=usage, truncated=found.truncated)
    return Result(body=msgspec.json.encode(result), prompt_tokens=read)


async def _ingest(bus: Bus, request: IngestDocuments, job: Job) -> Result:
    result, said = None, ""
    async with bus.stream(INGEST_DOCUMENTS(), request, request_id=job.job_id, key=job.key) as answer:
        async for item in answer:
            if isinstance(item, Status):
                continue
            result = item.result
            message = item.detail
            if item.document is not None:
                message = f"{item.document.filename or item.document.document_id}: {item.document.status}"
            if message and message != said:
                await say_progress(bus, job.job_id, JobProgress(done=item.done, total=item.total, message=message))
                said = message
    if result is None:
        raise LostError("stream_broken", "The documents were stored, and no result came.")
    return Result(body=msgspec.json.encode(result))


def _plain(reply: Tokens | Detokenized) -> Result:
    return Result(body=msgspec.json.encode(reply))
