"""A receiver of webhooks over real HTTP, and the actor that sends them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from standardwebhooks import Webhook

from actors import webhooks
from actors.config import ActorsConfig
from bus.client import Bus
from bus.errors import LostError
from bus.events import EventLog
from bus.messages.webhooks import DeliveryReply, ListDeliveries, ListWebhooks, RegisterWebhook, WebhookReply
from bus.subjects import LIST_DELIVERIES, LIST_WEBHOOKS, REGISTER_WEBHOOK
from tests.support.jobs import living
from tests.support.nats import until_it

SECRET = "webhook-secret-123"
LOOPBACK = ("127.0.0.0/8", "::1/128")


class Received(msgspec.Struct, frozen=True):
    """One request that came: `body` as it was before it was decoded."""

    headers: dict[str, str]
    raw: bytes
    body: Any
    path: str


class Receiver:
    """Answers with `answers`, one each and the last for ever; an answer is a status, with headers perhaps."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        self.url = ""
        self.received: list[Received] = []
        self._answers = list(answers) or [(200, {})]

    async def receive(self, request: web.Request) -> web.Response:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, raw, msgspec.json.decode(raw), request.path))
        status, told = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return web.Response(status=status, headers=told, text="thank you")

    def verified(self, secret: str | bytes) -> list[Any]:
        """Return the bodies that came, each checked as a receiver would with the library of the standard."""
        return [Webhook(secret).verify(each.raw, each.headers) for each in self.received]


@asynccontextmanager
async def receiving(*answers: int | tuple[int, dict[str, str]]) -> AsyncGenerator[Receiver]:
    """Serve a receiver until the block ends."""
    receiver = Receiver(*(answer if isinstance(answer, tuple) else (answer, {}) for answer in answers))
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        yield receiver
    finally:
        await runner.cleanup()


@asynccontextmanager
async def silent() -> AsyncGenerator[str]:
    """Accept connections and never answer, until the block ends; give the URL."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


class Telling:
    """The webhooks actor, as it is asked over the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.log = EventLog(bus)

    async def register(self, url: str, **fields: Any) -> WebhookReply:
        return await self._bus.ask(REGISTER_WEBHOOK(), RegisterWebhook(url=url, **({"secret": SECRET} | fields)))

    async def deliveries(self, webhook_id: str) -> tuple[DeliveryReply, ...]:
        reply = await self._bus.ask(LIST_DELIVERIES(), ListDeliveries(webhook_id=webhook_id))
        return reply.deliveries

    async def settled(self, webhook_id: str, count: int = 1) -> tuple[DeliveryReply, ...]:
        """Wait until so many deliveries have ended, and return them."""

        async def have_ended() -> bool:
            found = await self.deliveries(webhook_id)
            return len([each for each in found if each.status != "pending"]) >= count

        await until_it(have_ended)
        return await self.deliveries(webhook_id)


@asynccontextmanager
async def telling(
    bus: Bus, state: Path, delays: tuple[float, ...] = (0.05, 0.05, 0.05), **config: Any
) -> AsyncGenerator[Telling]:
    """Run the webhooks actor until the block ends; it may reach this machine."""
    settings = ActorsConfig(**({"webhook_networks": LOOPBACK} | config))

    async def answers() -> bool:
        try:
            await bus.ask(LIST_WEBHOOKS(), ListWebhooks())
        except LostError:
            return False
        return True

    async with living(webhooks.child(bus, settings, state, "webhooks-1", delays).run()):
        await until_it(answers)
        yield Telling(bus)
