"""The results of jobs, as the worker leaves them."""

import struct

import msgspec
from msgspec import Struct

from bus.messages.chat import FinishReason, TokenLogprob, ToolCall
from bus.scores import Ranked, Ranking
from http_edge.generation import Generated, WireUsage


class _ChatResult(Struct, frozen=True, kw_only=True):
    content: str
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason
    usage: WireUsage
    logprobs: tuple[TokenLogprob, ...] = ()


class _CompleteResult(Struct, frozen=True, kw_only=True):
    text: str
    finish_reason: FinishReason
    usage: WireUsage
    logprobs: tuple[TokenLogprob, ...] = ()


class _ReadUsage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int


class _EmbedResult(Struct, frozen=True, kw_only=True):
    embeddings: tuple[tuple[float, ...], ...]
    usage: _ReadUsage
    truncated: tuple[int, ...] = ()


class Vectors(Struct, frozen=True):
    """The vectors of an embedding job, each as little-endian float32, the tokens read, and which were shortened."""

    vectors: tuple[bytes, ...]
    tokens: int
    truncated: tuple[int, ...]


class _RerankResult(Struct, frozen=True, kw_only=True):
    results: tuple[Ranked, ...]
    usage: _ReadUsage
    truncated: tuple[int, ...] = ()


def chat_result(result: bytes) -> Generated:
    """Return what a job has said that chats."""
    said = _chat.decode(result)
    return Generated(
        text=said.content,
        reasoning=said.reasoning_content,
        tool_calls=said.tool_calls,
        finish_reason=said.finish_reason,
        usage=said.usage,
        logprobs=said.logprobs,
    )


def complete_result(result: bytes) -> Generated:
    """Return how a job has continued a text."""
    said = _complete.decode(result)
    return Generated(text=said.text, finish_reason=said.finish_reason, usage=said.usage, logprobs=said.logprobs)


def embed_result(result: bytes) -> Vectors:
    """Return the vectors that a job has made."""
    made = _embed.decode(result)
    vectors = tuple(struct.pack(f"<{len(vector)}f", *vector) for vector in made.embeddings)
    return Vectors(vectors, made.usage.prompt_tokens, made.truncated)


def rerank_result(result: bytes) -> Ranking:
    """Return the documents that a job has ranked."""
    found = _rerank.decode(result)
    return Ranking(results=found.results, prompt_tokens=found.usage.prompt_tokens, truncated=found.truncated)


_chat = msgspec.json.Decoder(_ChatResult)
_complete = msgspec.json.Decoder(_CompleteResult)
_embed = msgspec.json.Decoder(_EmbedResult)
_rerank = msgspec.json.Decoder(_RerankResult)
