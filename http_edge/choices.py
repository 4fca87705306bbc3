"""Several answers to one request: asked for at once, told together."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from aiohttp import web
from msgspec import structs

from bus.errors import RefusedError
from bus.frames import Status
from bus.messages.chat import ChatChunk, ChatRequest
from bus.subjects import Subject
from http_edge.errors import format_of
from http_edge.generation import Frames, Generated, PromptDetails, WireUsage, whole, wire_usage
from http_edge.routing import asking
from http_edge.sse import EventStream, event_stream

# Each is a request of its own to the model; more would only stand in the queue, where others wait too.
MAX_CHOICES = 8


class Encoder(Protocol):
    """Turns one answer into frames."""

    def head(self) -> bytes:
        """Return the frames that come before all others, the first time that it is asked for."""
        ...

    def __call__(self, chunk: ChatChunk) -> bytes:
        """Return the frames that tell `chunk`, after the head if nobody has taken it."""
        ...


ChatSubject = Subject[ChatRequest, ChatChunk]


def variants(message: ChatRequest, n: int | None) -> list[ChatRequest]:
    """Return `message` `n` times. With a seed, each has its own, counted up from there.

    Raises `RefusedError` if the last of them is too large.
    """
    if message.seed is None:
        return [message] * (n or 1)
    if message.seed + (n or 1) > 2**63:
        raise RefusedError("invalid_request", "'seed' is too large: each answer has the next one.", param="seed")
    return [structs.replace(message, seed=message.seed + index) for index in range(n or 1)]


async def whole_each(
    request: web.Request, subject: ChatSubject, model: str, messages: Sequence[ChatRequest]
) -> tuple[str, list[Generated]]:
    """Ask all at once, so that the model can batch them. The first that fails ends the others.

    Return the id of the model that ran, and the answers.
    """
    ran = model

    async def one(message: ChatRequest) -> Generated:
        nonlocal ran
        async with asking(request, subject, model, "chat", message) as answer:
            ran = answer.model
            return await whole(answer)

    if len(messages) == 1:
        said = await one(messages[0])
        return ran, [said]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(each)) for each in messages]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return ran, [task.result() for task in tasks]


async def relay_each(
    request: web.Request,
    subject: ChatSubject,
    model: str,
    asked: Sequence[tuple[ChatRequest, Encoder]],
    frames: Frames,
    n: int | None,
) -> web.StreamResponse:
    """Write the answers to requests as one stream, in the order in which their pieces come.

    Each is asked for and encoded as its pair says, and each `n` of them in a row read the same prompt.
    The usage comes last. The first that fails ends the others.
    """
    turn = asyncio.Lock()
    has_begun = False

    def begin(model: str) -> bytes:
        nonlocal has_begun
        if has_begun:
            return b""
        has_begun = True
        frames.name(model)
        # In their order: the openai clients cannot hear of number 1 before number 0.
        return b"".join(encode.head() for _, encode in asked)

    async def one(stream: EventStream, message: ChatRequest, encode: Encoder) -> WireUsage:
        last = ChatChunk()
        async with asking(request, subject, model, "chat", message) as answer:
            async for item in answer:
                async with turn:
                    if isinstance(item, Status):
                        await stream.wait_at(item)
                        continue
                    last = item
                    told = begin(answer.model) + encode(item)
                    if told:
                        await stream.write(told)
        return wire_usage(last)

    async with event_stream(request) as stream:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(stream, *each)) for each in asked]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        usage = usage_of([task.result() for task in tasks], n)
        await stream.write(frames.usage(usage) + format_of(request).done)
        return stream.response


def usage_of(usages: Sequence[WireUsage], n: int | None) -> WireUsage:
    """Return the usage of all, where each `n` of them in a row read the same prompt: it counts once."""
    firsts = usages[:: n or 1]
    read = sum(each.prompt_tokens for each in firsts)
    written = sum(each.completion_tokens for each in usages)
    cached = sum(each.prompt_tokens_details.cached_tokens for each in firsts)
    return WireUsage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )
