"""/api/events/schema: the JSON schema of what is recorded, for those who read the log."""

from aiohttp import web

from bus.errors import RefusedError
from eventlog.schema import kinds, schema, schema_of
from http_edge.wire import json_response


async def retrieve_all(_: web.Request) -> web.StreamResponse:
    """Give the schema of all events."""
    return json_response(schema())


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Give the schema of one kind of events."""
    kind = request.match_info["type"]
    found = schema_of(kind)
    if found is None:
        message = f"There are no events of the type {kind[:80]!r}; there are: {', '.join(kinds())}."
        raise RefusedError("event_not_found", message, param="type")
    return json_response(found)


ROUTES = [
    web.get("/api/events/schema", retrieve_all),
    web.get("/api/events/schema/{type}", retrieve),
]
