"""Orders to load and unload models: waited for, or told step by step as a stream of events."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from bus.errors import LostError
from bus.frames import Status
from bus.messages.models import ModelProgress
from bus.subjects import Address
from http_edge.context import BUS, REQUEST_ID
from http_edge.errors import format_of
from http_edge.sse import event_stream

OrderT = TypeVar("OrderT")


async def done(request: web.Request, address: Address[OrderT, ModelProgress], order: OrderT) -> ModelProgress:
    """Return the last step of `order`. Raises as `Bus.stream` does, and `LostError` if it ends before it is done.

    Whoever stops waiting does not stop what was ordered.
    """
    last = None
    async with request.app[BUS].stream(address, order, request_id=request[REQUEST_ID]) as answer:
        async for item in answer:
            last = item
    return _checked(last)


async def relay(
    request: web.Request,
    address: Address[OrderT, ModelProgress],
    order: OrderT,
    tell: Callable[[ModelProgress], object],
) -> web.StreamResponse:
    """Answer with the steps of `order` as events, each as `tell` has it. Raises as `done` does, at any point of it."""
    last = None
    async with (
        request.app[BUS].stream(address, order, request_id=request[REQUEST_ID]) as answer,
        event_stream(request) as stream,
    ):
        async for item in answer:
            if isinstance(item, Status):
                await stream.wait_at(item)
                continue
            last = item
            await stream.write(b"data: %b\n\n" % _encode(tell(item)))
        _checked(last)
        await stream.write(format_of(request).done)
        return stream.response


def _checked(last: ModelProgress | Status | None) -> ModelProgress:
    if not isinstance(last, ModelProgress) or not last.done:
        raise LostError("stream_broken", "The order ended without saying how.")
    return last


_encode = msgspec.json.Encoder().encode
