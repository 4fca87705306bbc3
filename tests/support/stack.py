"""The edge before actors, over a real nats-server, all in one process: for the tests of what clients see."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, TCPConnector
from msgspec import Struct
from openai import AsyncOpenAI

from actors.chat import ChatActor
from actors.embeddings import EmbeddingsActor
from actors.engines.echo import EchoEngine
from actors.mailbox import Finished, Limits, Mailbox
from actors.media import Media, MediaLimits
from actors.rerank import RerankActor
from bus.blobs import Blobs
from bus.client import Bus, settled
from bus.config import BusConfig
from bus.messages.chat import ChatChunk, ChatRequest, Usage
from bus.messages.models import ModelCard
from bus.messages.presence import Heartbeat
from bus.serve import Endpoint, ServiceInfo, serving
from bus.subjects import CHAT, COMPLETE, DETOKENIZE, EMBED, HEARTBEAT, RERANK, TOKENIZE, fill
from http_edge.app import serving_http
from http_edge.config import EdgeConfig
from tests.support.nats import until

CHAT_MODEL = "local/echo-1.5"
EMBED_MODEL = "local/echo-embed"
RERANK_MODEL = "local/echo-rerank"

CARDS = (
    ModelCard(id=CHAT_MODEL, kind="chat", tier=1, state="ready", created=1_700_000_000, context_length=4096),
    ModelCard(id=EMBED_MODEL, kind="embeddings", tier=0, state="ready", created=1_700_000_000, dimensions=8),
)
RERANK_CARD = ModelCard(
    id=RERANK_MODEL, kind="rerank", tier=1, state="ready", created=1_700_000_000, context_length=512
)


class Stack(Struct, frozen=True):
    """A running edge, and the ways to it. `bus` is the actors' connection, `edge_bus` the edge's."""

    url: str
    bus: Bus
    edge_bus: Bus
    blobs: Blobs
    http: ClientSession
    openai: AsyncOpenAI


@asynccontextmanager
async def stack(
    nats_url: str, folder: Path, config: EdgeConfig | None = None, bus_config: BusConfig | None = None
) -> AsyncGenerator[Stack]:
    """Run an edge and both kinds of clients. Whom it has heard of once is there until it ends."""
    bus_config = bus_config or BusConfig(url=nats_url, silence=60.0)
    config = config or EdgeConfig(port=0, drain_seconds=2.0)
    blobs, uploads = Blobs(folder / "blobs"), Blobs(folder / "uploads", is_passing=True)
    async with AsyncExitStack() as parts:
        bus = await parts.enter_async_context(Bus.connect("actors", bus_config))
        edge_bus = await parts.enter_async_context(Bus.connect("edge", bus_config))
        host, port = await parts.enter_async_context(serving_http(edge_bus, config, blobs, uploads))
        url = f"http://{host}:{port}"
        http = await parts.enter_async_context(ClientSession(url, connector=TCPConnector(limit=0)))
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        openai = await parts.enter_async_context(client)
        yield Stack(url, bus, edge_bus, blobs, http, openai)


@asynccontextmanager
async def living(bus: Bus, name: str, *endpoints: Endpoint[Any, Any], instance: str = "") -> AsyncGenerator[None]:
    """Answer on `endpoints` in a task of its own, as under the supervisor: its crash is not the test's."""
    info = ServiceInfo(name=name, instance=instance or f"{name}-1", description="A part of a test.")
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def live() -> None:
        async with serving(bus, info, *endpoints):
            ready.set_result(None)
            await asyncio.Event().wait()

    task = asyncio.create_task(live())
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ExceptionGroup):
            await task


@asynccontextmanager
async def chat_actor(
    bus: Bus,
    engine: Any,
    limits: Limits | None = None,
    *,
    model: str = CHAT_MODEL,
    instance: str = "chat-1",
    on_finished: Callable[[Finished[Any]], None] = lambda _: None,
) -> AsyncGenerator[Mailbox[Any, Any, Any]]:
    """Serve `model` with `engine` behind a mailbox."""
    actor = ChatActor(engine)
    mailbox: Mailbox[Any, Any, Any] = Mailbox(actor, limits or Limits(), on_finished, instance)
    endpoints = (
        Endpoint(CHAT(model), mailbox.receive),
        Endpoint(COMPLETE(model), mailbox.receive),
        Endpoint(TOKENIZE(model), actor.tokenize),
        Endpoint(DETOKENIZE(model), actor.detokenize),
    )
    await _load(engine)
    async with living(bus, "chat", *endpoints, instance=instance):
        yield mailbox


@asynccontextmanager
async def embeddings_actor(bus: Bus, engine: Any, media: Media | None = None) -> AsyncGenerator[None]:
    """Serve EMBED_MODEL with `engine` behind a mailbox; what is not said of `media` is for texts alone."""
    media = media or Media((), MediaLimits(most_bytes=1, most_pixels=1, seconds=1.0))
    mailbox: Mailbox[Any, Any, Any] = Mailbox(EmbeddingsActor(engine, media), Limits(), lambda _: None, "embeddings-1")
    await _load(engine)
    async with living(bus, "embeddings", Endpoint(EMBED(EMBED_MODEL), mailbox.receive)):
        yield
    await media.close()


@asynccontextmanager
async def rerank_actor(bus: Bus, engine: Any) -> AsyncGenerator[None]:
    """Serve RERANK_MODEL with `engine` behind a mailbox."""
    mailbox: Mailbox[Any, Any, Any] = Mailbox(RerankActor(engine), Limits(), lambda _: None, "rerank-1")
    await _load(engine)
    async with living(bus, "rerank", Endpoint(RERANK(RERANK_MODEL), mailbox.receive)):
        yield


class KeepingEngine(EchoEngine):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[ChatRequest] = []

    def prepare(self, request: ChatRequest) -> Any:
        self.asked.append(request)
        return super().prepare(request)


class GatedEngine:
    """Says a word, then waits at the gate, then says another. `closed` is set when a generator has ended."""

    def __init__(self, crash: bool = False) -> None:
        self.gate = asyncio.Event()
        self.closed = asyncio.Event()
        self._crash = crash

    def prepare(self, request: ChatRequest) -> ChatRequest:
        return request

    async def generate(self, _: ChatRequest) -> AsyncGenerator[ChatChunk]:
        try:
            yield ChatChunk(text="one")
            await self.gate.wait()
            if self._crash:
                raise ZeroDivisionError
            yield ChatChunk(text=" two", finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=2))
        finally:
            self.closed.set()


async def beat(stack: Stack, instance: str, role: str, **fields: Any) -> None:
    """Say a heartbeat, and wait until the edge has heard it."""
    heartbeat = Heartbeat(instance=instance, role=role, pid=1, at=0.0, **({"state": "ready"} | fields))
    await stack.bus.publish(fill(HEARTBEAT, instance), heartbeat)
    if heartbeat.state == "down":
        await settled(stack.bus.nc)
        return
    await until(lambda: heartbeat in stack.edge_bus.presence.instances)


def chat_body(text: str = "hello big world", **more: Any) -> dict[str, Any]:
    """Return a valid body for /v1/chat/completions."""
    return {"model": CHAT_MODEL, "messages": [{"role": "user", "content": text}]} | more


async def _load(engine: Any) -> None:
    if hasattr(engine, "load"):
        await engine.load()
