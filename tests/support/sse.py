"""A stream of named events, as an `EventSource` reads it."""

import json
from typing import Any

from aiohttp import ClientResponse
from msgspec import Struct


class Sent(Struct, frozen=True):
    """One event of a stream; one without an id leaves the place of the reader as it is."""

    id: str
    event: str
    data: dict[str, Any]


async def next_sent(response: ClientResponse) -> Sent | None:
    """Return the next event, without the comments before it; None when the stream has ended."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if not text and fields:
            return Sent(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
        name, _, value = text.partition(": ")
        if name:
            fields[name] = value
    return None


async def rest(response: ClientResponse) -> list[Sent]:
    """Return all events until the stream ends."""
    found = []
    while (sent := await next_sent(response)) is not None:
        found.append(sent)
    return found
