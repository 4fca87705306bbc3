"""The load that the benchmarks make, against an edge with an echo behind it."""

from pathlib import Path

from aiohttp import ClientSession

from actors.engines.echo import EchoEngine
from actors.mailbox import Limits
from bench.load import Load, Target, ask, prompts, run
from tests.support.stack import CHAT_MODEL, chat_actor, stack


async def test_every_request_is_sent_once_and_timed_to_its_end(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        target = Target("edge", edge.url, CHAT_MODEL)
        done = await run(target, Load(at_once=3, requests=8, max_tokens=4), prompts())

        assert [(each.error, each.tokens, len(each.gaps)) for each in done.outcomes] == [(None, 4, 3)] * 8
        assert all(0 < each.first <= each.total <= done.seconds for each in done.outcomes)


async def test_what_is_refused_or_breaks_off_is_an_error_and_no_figure(nats_url: str, tmp_path: Path) -> None:
    limits = Limits(concurrency=1, max_queue=0)
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine(delay=0.05), limits):
        target = Target("edge", edge.url, CHAT_MODEL)
        done = await run(target, Load(at_once=2, requests=2, max_tokens=4), prompts())
        async with ClientSession() as session:
            empty = await ask(session, target, "", 4)

        assert sorted(each.error or "" for each in done.outcomes) == ["", "status 429"]
        assert empty.error is not None


def test_no_two_texts_are_equal() -> None:
    texts = prompts()

    assert len({next(texts) for _ in range(100)}) == 100
