"""Writing to clients that may read slowly, or not at all."""

import asyncio

import msgspec
from aiohttp import web

from http_edge.context import CONFIG

# Of a client that reads nothing, so much may stay in memory.
_PIECE_BYTES = 256 * 1024


async def write_patiently(request: web.Request, response: web.StreamResponse, content: bytes | memoryview) -> None:
    """Write, and cut a client that takes longer than `write_seconds` for it, which raises `ConnectionResetError`."""
    try:
        async with asyncio.timeout(request.app[CONFIG].write_seconds):
            await response.write(content)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("The client has stopped reading.") from error


async def large_json_response(request: web.Request, message: object) -> web.StreamResponse:
    """Return `message` as a response, as `large_response` does."""
    return await large_response(request, msgspec.json.encode(message), "application/json")


async def large_response(request: web.Request, content: bytes, content_type: str) -> web.StreamResponse:
    """Return `content` as a response, which is written by then if it is large. Raises as `write_patiently` does."""
    headers = {"Content-Type": content_type}
    if len(content) <= _PIECE_BYTES:
        return web.Response(body=content, headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_length = len(content)
    await response.prepare(request)
    for start in range(0, len(content), _PIECE_BYTES):
        await write_patiently(request, response, memoryview(content)[start : start + _PIECE_BYTES])
    return response
