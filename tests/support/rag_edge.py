"""The edge before the rag actor and the jobs actor, with an embedding model of a few lines."""

import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct
from yarl import URL

from bus.config import BusConfig
from http_edge.config import EdgeConfig
from tests.support.nats import Server
from tests.support.rag_world import RagWorld, jobs_actor, rag_actor, rag_world
from tests.support.stack import Stack, stack


class Reply(Struct, frozen=True):
    """What came back: a status, and a body as JSON."""

    status: int
    body: dict[str, Any]


class RagEdge(Struct, frozen=True):
    """An edge, and what is behind it."""

    edge: Stack
    world: RagWorld

    async def ask(self, method: str, path: str | URL, **request: Any) -> Reply:
        async with self.edge.http.request(method, path, **request) as response:
            return Reply(response.status, json.loads(await response.read()))

    async def post(self, path: str, **request: Any) -> Reply:
        return await self.ask("POST", path, **request)

    async def post_large(self, path: str, body: bytes, content_type: str = "application/json") -> Reply:
        """Post what aiohttp's client would warn of."""
        return await self.post(path, data=io.BytesIO(body), headers={"Content-Type": content_type})

    async def put_text(self, path: str, text: str, **body: Any) -> Reply:
        return await self.ask("PUT", f"/api/rag/documents/{path}", json={"text": text} | body)


@asynccontextmanager
async def rag_edge(
    server: Server, folder: Path, config: EdgeConfig | None = None, **settings: Any
) -> AsyncGenerator[RagEdge]:
    """Serve RAG; `settings` are those of the actor."""
    bus_config = BusConfig(url=server.url, state_dir=folder)
    async with (
        rag_world(server, folder) as world,
        rag_actor(world, **settings),
        jobs_actor(world),
        stack(server.url, folder, config, bus_config) as edge,
    ):
        yield RagEdge(edge, world)
