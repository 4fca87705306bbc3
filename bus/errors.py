"""What can go wrong on the bus, and the stable codes under which it is told.

BusError
├── RefusedError      the one asked declines: the request is wrong, or there is no room for it
├── ConflictError     the log has moved on since the writer last read it
└── LostError         nobody answered, or the answer stopped in the middle
"""

from typing import Literal

import msgspec

Code = Literal[
    "batch_not_found",
    "cancelled",
    "chunk_not_found",
    "collection_not_found",
    "conflict",
    "context_length_exceeded",
    "crashed",
    "document_not_found",
    "event_not_found",
    "file_not_found",
    "insufficient_memory",
    "internal_error",
    "invalid_request",
    "job_not_found",
    "model_not_found",
    "previous_response_not_found",
    "queue_full",
    "queue_timeout",
    "response_not_found",
    "restarting",
    "storage_full",
    "stream_broken",
    "subscription_not_found",
    "timeout",
    "too_large",
    "unavailable",
    "unsupported_parameter",
    "webhook_not_found",
]


_LONGEST = 2000


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was not answered, as it travels on the bus.

    `param` names the field at fault; `retry_after` is in seconds.
    """

    code: Code
    message: str
    param: str | None = None
    retry_after: float | None = None


class BusError(Exception):
    """A request that was not answered; `failure` says why."""

    def __init__(self, code: Code, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        # It may quote what was asked; longer than a message may be, it would not arrive at all.
        message, param = message[:_LONGEST], param and param[:_LONGEST]
        super().__init__(message)
        self.failure = Failure(code=code, message=message, param=param, retry_after=retry_after)

    @property
    def code(self) -> Code:
        """The stable code."""
        return self.failure.code


class RefusedError(BusError):
    """The one asked declines."""


class ConflictError(BusError):
    """The log has moved on since the writer last read it: somebody else decided first."""


class LostError(BusError):
    """Nobody answered, or the answer stopped in the middle."""


_LOST: frozenset[Code] = frozenset(("crashed", "restarting", "stream_broken", "timeout", "unavailable"))


def error_of(failure: Failure) -> BusError:
    """Return `failure` as the exception to raise at the asker's side."""
    kind = LostError if failure.code in _LOST else RefusedError
    return kind(failure.code, failure.message, param=failure.param, retry_after=failure.retry_after)
