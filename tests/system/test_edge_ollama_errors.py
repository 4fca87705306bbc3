"""What goes wrong on Ollama's routes, as its official client hears of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ollama import AsyncClient, ResponseError

from actors.engines.echo import EchoEngine
from bus.errors import RefusedError
from bus.messages.chat import ChatChunk
from tests.support.models_owner import catalogue
from tests.support.nats import until
from tests.support.ollama_client import failing, user
from tests.support.stack import CHAT_MODEL, GatedEngine, chat_actor, stack


class BreakingEngine(EchoEngine):
    """Says a word and then declines."""

    async def generate(self, _: Any) -> AsyncGenerator[ChatChunk]:
        yield ChatChunk(text="one")
        raise RefusedError("insufficient_memory", "There is no room for more.")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"options": {"temperature": 3}}, "options.temperature"),
        ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"options": {"num_ctx": 4097}}, "options.num_ctx"),
        ({"options": {"wings": 2}}, "options.wings"),
        ({"format": "yaml"}, "format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"think": "max"}, "think"),
        ({"truncate": True}, "truncate"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    nats_url: str, tmp_path: Path, asked: dict[str, Any], named: str
) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()), catalogue(edge.bus):
        async with edge.http.post("/api/chat", json={"model": CHAT_MODEL, "messages": user("hi")} | asked) as response:
            told = await response.json()

    assert response.status == 400
    assert set(told) == {"error"}
    assert f"'{named}'" in told["error"] or f"`{named}`" in told["error"]


async def test_errors_raise_in_the_client(nats_url: str, tmp_path: Path) -> None:
    engine = EchoEngine(context_length=2)
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine), catalogue(edge.bus):
        async with AsyncClient(host=edge.url) as client:
            unknown = await failing(client.chat("nope", user("hi")))
            long = await failing(client.generate(CHAT_MODEL, "a b c"))
            raw = await failing(client.generate(CHAT_MODEL, "a", raw=True, system="be"))
            with pytest.raises(ResponseError) as raised:
                [part async for part in await client.chat("nope", user("hi"), stream=True)]

    assert (unknown.status_code, unknown.error) == (404, "The model 'nope' does not exist.")
    assert (raised.value.status_code, raised.value.error) == (404, "The model 'nope' does not exist.")
    assert long.status_code == 400
    assert "maximum context length is 2" in long.error
    assert long.error.endswith("(in 'prompt')")
    assert "'system'" in raw.error


async def test_error_in_a_stream_is_a_line_that_the_client_raises(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, BreakingEngine()):
        async with AsyncClient(host=edge.url) as client:
            stream = await client.chat(CHAT_MODEL, user("hi"), stream=True)
            first = await anext(stream)
            with pytest.raises(ResponseError) as raised:
                await anext(stream)

    assert first.message.content == "one"
    assert raised.value.error == "There is no room for more."


async def test_client_that_leaves_frees_its_place(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine) as mailbox:
        async with AsyncClient(host=edge.url) as client:
            async for part in await client.chat(CHAT_MODEL, user("hi"), stream=True):
                assert part.message.content == "one"
                break
        await asyncio.wait_for(engine.closed.wait(), 60)
        engine.closed.clear()
        async with AsyncClient(host=edge.url) as client:
            waiting = asyncio.create_task(client.chat(CHAT_MODEL, user("hi")))
            await until(lambda: mailbox.load.running)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        await asyncio.wait_for(engine.closed.wait(), 60)
        await until(lambda: not mailbox.load.running)


async def test_client_that_looks_whether_a_server_is_there_finds_one(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:
        async with edge.http.head("/") as response:
            assert response.status == 200
        async with edge.http.get("/api/chat") as response:
            told = await response.json()

    assert (response.status, told) == (405, {"error": "GET is not allowed here, only POST."})
