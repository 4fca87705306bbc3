"""What is said with the files actor. The content of a file is a blob; here is only its name."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

FileId = Annotated[str, Meta(pattern=r"^file-[0-9A-Za-z_-]{1,64}\Z")]
Purpose = Literal["batch", "batch_output"]
Order = Literal["asc", "desc"]


class PutFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Keep this file. Putting the same `file_id` with the same content again changes nothing.

    `key` is the fingerprint of the API key.
    """

    file_id: FileId
    filename: Annotated[str, Meta(max_length=255)]
    purpose: Purpose
    bytes: Annotated[int, Meta(ge=0)]
    blob: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    key: str | None = None


class GetFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about this file."""

    file_id: Annotated[str, Meta(min_length=1)]


class ListFiles(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tell which files there are, by when they were stored, behind the file `after`."""

    purpose: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    after: str | None = None
    order: Order = "desc"


class DeleteFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let nobody see this file any more."""

    file_id: Annotated[str, Meta(min_length=1)]


class FileReply(Struct, frozen=True, kw_only=True):
    """A file as it was stored."""

    file_id: str
    filename: str
    purpose: str
    bytes: int
    blob: str
    stored_at: datetime
    expires_at: datetime


class FileList(Struct, frozen=True, kw_only=True):
    """Some of the files, not more than a message may hold; `has_more` says that others follow."""

    files: tuple[FileReply, ...]
    has_more: bool
