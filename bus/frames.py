"""The pieces of a streamed answer as they travel, and how an end or an error is marked.

A frame is a JSON object: `seq` counts from 0 without a gap, and either `data` is a piece of the answer or
`status` tells how it stands. The reply subject of every frame is where to publish, with no payload, to end
the answer: the server itself does so (503) when nobody listens any more, so a dead asker and a polite one
are the same. The last message is no frame: it has headers, and a `Failure` as payload unless all went well.
"""

from typing import Generic, TypeVar

from msgspec import Struct

DataT = TypeVar("DataT")

END = "Fusion-End"  # done | failed
COUNT = "Fusion-Count"  # how many frames came before
REQUEST_ID = "Fusion-Request-Id"
FIRST = "Fusion-First"  # how many frames somebody else has sent of this answer; unsaid, none
LEASE = "Fusion-Lease"  # a subject: publish there, with no payload, when the request is over
KEEP_ALIVE = "Fusion-Keep-Alive"  # seconds that a heavy model stays loaded afterwards; negative: for ever
KEY = "Fusion-Key"  # the fingerprint of the API key, for the record; never the key
ERROR = "Nats-Service-Error"  # the message; NATS ADR-32
ERROR_CODE = "Nats-Service-Error-Code"
STATUS = "Status"  # set by nats-server: 503 when nobody is subscribed


def size(payload: bytes, headers: dict[str, str]) -> int:
    """Return what a message counts against the server's `max_payload`, which nats-py compares with the payload only.

    The server closes the connection of a client that exceeds it.
    """
    lines = sum(len(f"{key}: {value}\r\n".encode()) for key, value in headers.items())
    return len("NATS/1.0\r\n\r\n") + lines + len(payload)


class Prefill(Struct, frozen=True, kw_only=True):
    """How much of a long prompt has been read: `done` of `total` tokens."""

    done: int
    total: int


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a request stands before its answer: `position` 0 runs, 1 is next. `prefill` comes while it is read.

    `loading` is for how many seconds its model has been loading. `model` is the id of the model that runs it, which
    may have been asked by an alias.
    """

    instance: str
    position: int = 0
    prefill: Prefill | None = None
    loading: float | None = None
    model: str = ""


class Frame(Struct, Generic[DataT], frozen=True, kw_only=True, omit_defaults=True):
    """One message of a streamed answer."""

    seq: int
    data: DataT | None = None
    status: Status | None = None
