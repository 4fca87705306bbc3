"""The load that the benchmarks make, against an edge with an echo behind it."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from actors.engines.echo import EchoEngine
from actors.mailbox import Limits
from bench.load import Load, Target, ask, prompts, run
from bus.messages.chat import ChatChunk
from tests.support.nats import until
from tests.support.stack import CHAT_MODEL, chat_actor, stack


async def test_every_request_is_sent_once_and_timed_to_its_end(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        target = Target("edge", edge.url, CHAT_MODEL)
        done = await run(target, Load(at_once=3, requests=8, max_tokens=4), prompts())

        assert [(each.error, each.tokens, len(each.gaps)) for each in done.outcomes] == [(None, 4, 3)] * 8
        assert all(0 < each.first <= each.total <= done.seconds for each in done.outcomes)


class GatedEcho(EchoEngine):
    """Waits at the gate before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def generate(self, work: Any) -> AsyncGenerator[ChatChunk]:
        await self.gate.wait()
        async for chunk in super().generate(work):
            yield chunk


async def test_what_is_refused_or_breaks_off_is_an_error_and_no_figure(nats_url: str, tmp_path: Path) -> None:
    limits = Limits(concurrency=1, max_queue=0)
    engine = GatedEcho()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine, limits) as mailbox:
        target = Target("edge", edge.url, CHAT_MODEL)
        running = asyncio.create_task(run(target, Load(at_once=2, requests=2, max_tokens=4), prompts()))
        await until(lambda: mailbox.load.refused)
        engine.gate.set()
        done = await running
        async with ClientSession() as session:
            empty = await ask(session, target, "", 4)

        assert sorted(each.error or "" for each in done.outcomes) == ["", "status 429"]
        assert empty.error is not None


def test_no_two_texts_are_equal() -> None:
    texts = prompts()

    assert len({next(texts) for _ in range(100)}) == 100
