"""What is said with the responses actor. What was asked and answered is a blob; here is only its name."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from eventlog.events import ResponseStatus

ResponseId = Annotated[str, Meta(pattern=r"^resp_[0-9A-Za-z]{1,64}\Z")]


class PutResponse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Keep this response. `job_id` is that of one in the background."""

    response_id: ResponseId
    model: Annotated[str, Meta(min_length=1)]
    status: ResponseStatus
    body_blob: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    previous_response_id: ResponseId | None = None
    job_id: str | None = None


class GetResponse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about this response."""

    response_id: Annotated[str, Meta(min_length=1)]


class DeleteResponse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let nobody see this response any more."""

    response_id: Annotated[str, Meta(min_length=1)]


class ResponseReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A response as it was stored; one in the background stands as its job does by now."""

    response_id: str
    model: str
    status: ResponseStatus
    stored_at: datetime
    body_blob: str
    previous_response_id: str | None = None
    job_id: str | None = None
