"""An edge before a model that reads pictures, and how it is asked."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from actors.engines.echo import EchoEmbeddings
from actors.media import Media, MediaLimits
from bus.blobs import Blobs
from bus.messages.models import ModelCard
from http_edge.config import EdgeConfig
from tests.support.models_owner import catalogue
from tests.support.stack import CARDS, EMBED_MODEL, Stack, embeddings_actor, stack

SEEING = ModelCard(
    id=EMBED_MODEL,
    kind="embeddings",
    tier=0,
    state="ready",
    created=1_700_000_000,
    dimensions=8,
    modalities=("text", "image", "video"),
)
BLIND = ModelCard(id="local/blind", kind="embeddings", tier=0, state="ready", created=1, modalities=("text",))


@asynccontextmanager
async def seeing(
    nats_url: str, folder: Path, engine: Any = None, config: EdgeConfig | None = None
) -> AsyncGenerator[Stack]:
    """Run an edge before a model that reads pictures, in a catalogue after one that does not."""
    limits = MediaLimits(most_bytes=10**7, most_pixels=10**6, seconds=60.0)
    media = Media((Blobs(folder / "uploads", is_passing=True), Blobs(folder / "blobs")), limits)
    async with (
        stack(nats_url, folder, config) as edge,
        catalogue(edge.bus, (CARDS[0], BLIND, SEEING)),
        embeddings_actor(edge.bus, engine or EchoEmbeddings(), media),
    ):
        yield edge


def uploads(folder: Path) -> list[Path]:
    return [path for path in (folder / "uploads").rglob("*") if path.is_file()]


async def post(edge: Stack, path: str, **body: Any) -> tuple[int, Any]:
    if "json" in body:  # aiohttp's own client warns of a large body that is given at once.
        content = BytesIO(msgspec.json.encode(body["json"]))
        body = {"data": content, "headers": {"Content-Type": "application/json"}}
    async with edge.http.post(path, **body) as response:
        return response.status, await response.json()


def form(**fields: Any) -> aiohttp.FormData:
    """Return a form in which bytes are files."""
    made = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        if isinstance(value, bytes):
            made.add_field(name, BytesIO(value), filename="a file")
        else:
            made.add_field(name, value)
    return made
