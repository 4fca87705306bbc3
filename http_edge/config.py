"""How the edge listens, and how patient it is."""

from typing import Annotated

from msgspec import Meta, Struct

from bus.config import MOST_SECONDS, Port, Seconds


class EdgeConfig(Struct, frozen=True, kw_only=True):
    """Settings of the HTTP edge. Times in seconds; port 0 takes a free one.

    `read_seconds` is how long a body may take to come, `write_seconds` how long a client may read nothing of a
    stream or a large answer before it counts as gone.
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 8000
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 32 * 2**20
    max_file_bytes: Annotated[int, Meta(ge=1024)] = 200 * 2**20
    max_document_bytes: Annotated[int, Meta(ge=1024)] = 100 * 2**20
    max_ingest_bytes: Annotated[int, Meta(ge=1024)] = 2**30
    max_image_bytes: Annotated[int, Meta(ge=1024)] = 20 * 2**20
    max_video_bytes: Annotated[int, Meta(ge=1024)] = 200 * 2**20
    sse_comment_seconds: Seconds = 5.0
    read_seconds: Seconds = 30.0
    write_seconds: Seconds = 60.0
    drain_seconds: Annotated[float, Meta(ge=0, le=MOST_SECONDS)] = 10.0


# Environment variables and the fields they set.
VARIABLES = {
    "FUSION_HOST": "host",
    "FUSION_PORT": "port",
    "DRAIN_SECONDS": "drain_seconds",
}
