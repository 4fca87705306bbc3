"""The one table from the bus's codes to HTTP, and the formats in which the APIs tell errors and streams."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
from aiohttp import web

from bus.errors import Code, Failure
from http_edge.context import REQUEST_ID

ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]

# What the openai clients do with a status: 400, 404, 413 raise at once; 409, 429 and 5xx are asked again twice.
STATUSES: dict[Code, tuple[int, ErrorType]] = {
    "invalid_request": (400, "invalid_request_error"),
    "unsupported_parameter": (400, "invalid_request_error"),
    "context_length_exceeded": (400, "invalid_request_error"),
    "previous_response_not_found": (400, "invalid_request_error"),
    "model_not_found": (404, "invalid_request_error"),
    "job_not_found": (404, "invalid_request_error"),
    "file_not_found": (404, "invalid_request_error"),
    "batch_not_found": (404, "invalid_request_error"),
    "response_not_found": (404, "invalid_request_error"),
    "webhook_not_found": (404, "invalid_request_error"),
    "subscription_not_found": (404, "invalid_request_error"),
    "event_not_found": (404, "invalid_request_error"),
    "collection_not_found": (404, "invalid_request_error"),
    "document_not_found": (404, "invalid_request_error"),
    "chunk_not_found": (404, "invalid_request_error"),
    "conflict": (409, "invalid_request_error"),
    "too_large": (413, "invalid_request_error"),
    "queue_full": (429, "rate_limit_error"),
    "internal_error": (500, "server_error"),
    "stream_broken": (502, "server_error"),
    "cancelled": (503, "server_error"),
    "crashed": (503, "server_error"),
    "queue_timeout": (503, "server_error"),
    "restarting": (503, "server_error"),
    "unavailable": (503, "server_error"),
    "timeout": (504, "server_error"),
    "insufficient_memory": (507, "server_error"),
    "storage_full": (507, "server_error"),
}

# The openai clients obey any Retry-After up to minutes, and then look as if they hung.
_LONGEST_RETRY_AFTER = 30


def code_of(told: str | None) -> Code:
    """Return the code that somebody has recorded or told as a text; one that is not known here is an internal error."""
    codes: dict[str | None, Code] = {code: code for code in STATUSES}
    return codes.get(told, "internal_error")


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's error; all four keys are always there."""

    message: str
    type: ErrorType
    param: str | None
    code: str | None


class Envelope(msgspec.Struct, frozen=True):
    """What an error is told in, as a body or as a frame of a stream."""

    error: ErrorBody


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """How one API tells errors and streams.

    `error` turns what went wrong, its HTTP status and the request's id into a body; `frame` carries that body in a
    stream, `comment` a note that clients skip, where the API has such, and `done` follows what went well.
    `statuses` are those that differ from the table; `id_header` has the request's id once more.
    """

    error: Callable[[ErrorBody, int, str], bytes]
    content_type: str = "text/event-stream"
    frame: bytes = b"data: %b\n\n"
    comment: bytes | None = b": %b\n\n"
    done: bytes = b"data: [DONE]\n\n"
    statuses: Mapping[Code, int] = {}
    id_header: str | None = None


OPENAI = Format(error=lambda error, *_: msgspec.json.encode(Envelope(error)))

# Named events; the clients raise on an `error` in whichever.
RESPONSES = Format(error=OPENAI.error, frame=b"event: error\ndata: %b\n\n")

# By the path of the route, or of a folder for what is unknown in it.
FORMATS = web.AppKey("formats", dict[str, Format])


def format_of(request: web.Request) -> Format:
    """Return the format of the API that `request` calls, also if it does so by a wrong method or path."""
    formats = request.app[FORMATS]
    resource = request.match_info.route.resource
    path = resource.canonical if resource else request.path
    while path and path not in formats:
        path = path.rpartition("/")[0]
    return formats.get(path, OPENAI)


def error_body(request: web.Request, failure: Failure) -> bytes:
    """Return `failure` as a body."""
    _, kind = STATUSES[failure.code]
    error = ErrorBody(message=failure.message, type=kind, param=failure.param, code=failure.code)
    return format_of(request).error(error, _status(request, failure), request[REQUEST_ID])


def error_response(request: web.Request, failure: Failure) -> web.Response:
    """Return the answer that tells of `failure`."""
    status, _ = STATUSES[failure.code]
    headers = {}
    if status in {429, 503, 504}:
        seconds = math.ceil(failure.retry_after or 1)
        headers["Retry-After"] = str(min(max(seconds, 1), _LONGEST_RETRY_AFTER))
    if status == 507:
        # Asking again at once would fill memory or disk again; this header stops the openai clients.
        headers["x-should-retry"] = "false"
    return web.Response(
        status=_status(request, failure),
        body=error_body(request, failure),
        content_type="application/json",
        headers=headers,
    )


def http_error_response(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return the answer for what HTTP alone declines: unknown path, wrong method, a body too large or too slow."""
    headers = {}
    code, message = "invalid_request", f"{error.reason}."
    match error:
        case web.HTTPNotFound():
            code, message = "unknown_url", f"Unknown URL ({request.method} {request.path})."
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            code, message = "method_not_allowed", f"{request.method} is not allowed here, only {allowed}."
            headers["Allow"] = allowed
        case web.HTTPRequestEntityTooLarge():
            code, message = "too_large", f"The body is larger than {request.client_max_size} bytes."
        case web.HTTPRequestTimeout():
            code, message = "request_timeout", "The body did not come in time."
        case _:
            pass
    kind: ErrorType = "invalid_request_error" if error.status < 500 else "server_error"
    body = ErrorBody(message=message, type=kind, param=None, code=code)
    return web.Response(
        status=error.status,
        body=format_of(request).error(body, error.status, request[REQUEST_ID]),
        content_type="application/json",
        headers=headers,
    )


def _status(request: web.Request, failure: Failure) -> int:
    status, _ = STATUSES[failure.code]
    return format_of(request).statuses.get(failure.code, status)
