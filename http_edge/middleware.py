"""Around every request: its id, its trace, one line in the log, and the envelope for whatever goes wrong."""

import re
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from structlog.contextvars import bound_contextvars

from bus.errors import BusError, Failure
from bus.ids import new_id
from bus.telemetry import extracted
from http_edge.context import REQUEST_ID
from http_edge.errors import error_response, format_of, http_error_response
from http_edge.sse import STREAM, EventStream

log = structlog.get_logger()

_HEADER = "x-request-id"
_CLIENTS_ID = re.compile(r"[ -~]{1,128}")

# As nginx has it: the client left before it was answered.
_CLIENT_GONE = 499


@web.middleware
async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle `request` under its id and inside its trace, and log how it went."""
    begun = time.monotonic()
    request_id = _request_id(request)
    request[REQUEST_ID] = request_id
    status = _CLIENT_GONE
    with extracted(request.headers), bound_contextvars(request_id=request_id):
        try:
            response = await _guarded(request, handler)
            status = response.status
        except ConnectionError:
            # Nobody is left to be told; what is raised here, aiohttp logs as a mistake of ours.
            return web.Response(status=status)
        else:
            return response
        finally:
            log.info(
                "http.request",
                method=request.method,
                path=request.path,
                status=status,
                ms=round((time.monotonic() - begun) * 1000, 1),
                request_id=request_id,
            )


async def name_request(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id on `response`, streamed or not, just before its headers go out."""
    if REQUEST_ID in request:
        response.headers[_HEADER] = request[REQUEST_ID]
        if own := format_of(request).id_header:
            response.headers[own] = request[REQUEST_ID]


async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BusError as error:
        return await _failed(request, error.failure)
    except web.HTTPException as error:
        return http_error_response(request, error)
    except ConnectionError:
        # The client is gone.
        raise
    except Exception:
        # The last door: the client gets an envelope, the log the traceback.
        log.exception("http.crashed", path=request.path)
        return await _failed(request, _INTERNAL)


async def _failed(request: web.Request, failure: Failure) -> web.StreamResponse:
    stream: EventStream | None = request.get(STREAM)
    if stream is None:
        return error_response(request, failure)
    log.warning("stream.failed", code=failure.code)
    await stream.fail(failure)
    return stream.response


def _request_id(request: web.Request) -> str:
    given = request.headers.get(_HEADER, "")
    return given if _CLIENTS_ID.fullmatch(given) else new_id("req")


_INTERNAL = Failure(code="internal_error", message="The server made a mistake on this request; its log says which.")
