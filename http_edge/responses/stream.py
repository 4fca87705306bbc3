"""Streams a response as named events. The last one comes when the response is stored."""

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from bus.errors import BusError
from bus.inbox import Answer
from bus.messages.chat import ChatChunk
from http_edge.errors import STATUSES
from http_edge.generation import relay_pieces, wire_usage
from http_edge.responses.output import Output
from http_edge.responses.view import Response, ended, failed
from http_edge.sse import event_stream


async def relay(
    request: web.Request,
    answer: Answer[ChatChunk],
    response: Response,
    keep: Callable[[Response], Awaitable[None]],
) -> web.StreamResponse:
    """Write `answer` as the events of `response`, and `keep` what has become of it.

    Raises `BusError` while the model has not taken the request in; from then on that ends in `response.failed`.
    """
    output = Output(response.id)
    async with event_stream(request) as stream:
        try:
            begun = output.tell("response.created", response) + output.tell("response.in_progress", response)
            last, rest = await relay_pieces(stream, answer, output.feed, begun)
            if rest:
                await stream.write(rest)
            usage = wire_usage(last)
        except BusError as error:
            if not stream.response.prepared:
                raise
            frames = output.close("incomplete")
            _, kind = STATUSES[error.code]
            response = failed(response, output.items, kind, str(error))
        else:
            assert last.finish_reason is not None  # noqa: S101 - it comes with the usage
            frames = output.end(last.finish_reason)
            response = ended(response, output.items, last.finish_reason, usage, time.time())
        await keep(response)
        await stream.write(frames + output.tell(f"response.{response.status}", response))
        return stream.response
