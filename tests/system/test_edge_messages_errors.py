"""What goes wrong with Anthropic's messages, as the official client hears of it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from anthropic import (
    APIStatusError,
    AsyncAnthropic,
    BadRequestError,
    ContentTooLargeError,
    NotFoundError,
    OverloadedError,
    RateLimitError,
)

from actors.engines.echo import EchoEngine
from actors.mailbox import Limits
from http_edge.config import EdgeConfig
from tests.support.anthropic_client import asked, client_of, talking
from tests.support.models_owner import catalogue
from tests.support.nats import until
from tests.support.stack import CHAT_MODEL, GatedEngine, chat_actor, stack

PING = 'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"extra_body": {"foo": 1}}, "foo"),
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
        ({"extra_body": {"top_p": 2}}, "top_p"),
        ({"extra_body": {"max_tokens": None}}, "max_tokens"),
        ({"stop_sequences": ["1", "2", "3", "4", "5"]}, "stop_sequences"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"container": "c"}, "container"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "output_config.format.schema"),
    ],
)
async def test_what_cannot_be_honoured_is_a_bad_request_that_names_the_field(
    nats_url: str, tmp_path: Path, more: dict[str, Any], named: str
) -> None:
    async with talking(nats_url, tmp_path, EchoEngine()) as client:
        for stream in (False, True):
            with pytest.raises(BadRequestError) as raised:
                await client.messages.create(**(asked() | more), stream=stream)

            told: Any = raised.value.body
            assert raised.value.type == "invalid_request_error"
            assert named in told["error"]["message"]
            assert told["request_id"] == raised.value.request_id


async def test_every_error_is_told_as_anthropic_does(nats_url: str, tmp_path: Path) -> None:
    config = EdgeConfig(port=0, max_body_bytes=1000)
    async with stack(nats_url, tmp_path, config) as edge, client_of(edge) as client, catalogue(edge.bus):
        with pytest.raises(NotFoundError) as unknown:
            await client.messages.create(**asked() | {"model": "no/such"})
        with pytest.raises(OverloadedError) as away:
            await client.messages.create(**asked())
        with pytest.raises(OverloadedError):
            await client.messages.count_tokens(model=CHAT_MODEL, messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(ContentTooLargeError) as large:
            await client.messages.create(**asked("x" * 1000))
        async with edge.http.get("/v1/messages") as response:
            told = await response.json()

    assert unknown.value.type == "not_found_error"
    assert "model: The model 'no/such' does not exist." in unknown.value.message
    assert away.value.type == "overloaded_error"
    assert away.value.response.headers["Retry-After"] == "1"
    assert large.value.type == "request_too_large"
    assert (response.status, told["type"], told["error"]["type"]) == (405, "error", "invalid_request_error")


async def test_full_queue_is_a_rate_limit_and_a_waiting_stream_is_pinged(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    config = EdgeConfig(port=0, sse_comment_seconds=0.02)
    async with (
        stack(nats_url, tmp_path, config) as edge,
        client_of(edge) as client,
        chat_actor(edge.bus, engine, Limits(concurrency=1, max_queue=1)),
        edge.http.post("/v1/messages", json=asked(stream=True)),
        edge.http.post("/v1/messages", json=asked(stream=True)) as waiting,
        asyncio.timeout(60),
    ):
        lines = b"".join([await waiting.content.readline() for _ in range(8)])
        with pytest.raises(RateLimitError) as full:
            await client.messages.create(**asked())
        engine.gate.set()
        rest = (await waiting.read()).decode()

    assert lines.decode() == f": queued 1\n{PING}" * 2
    assert full.value.type == "rate_limit_error"
    assert rest.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')


async def test_crash_in_the_middle_raises_in_the_client(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine(crash=True)
    async with talking(nats_url, tmp_path, engine) as client:
        async with client.messages.stream(**asked()) as stream:
            engine.gate.set()
            with pytest.raises(APIStatusError) as raised:
                await stream.get_final_message()

    assert raised.value.type == "api_error"
    assert "crash" in raised.value.message


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_frees_the_place(nats_url: str, tmp_path: Path, stream: bool) -> None:
    engine = GatedEngine()
    async with (
        stack(nats_url, tmp_path) as edge,
        chat_actor(edge.bus, engine) as mailbox,
        client_of(edge) as client,
        asyncio.timeout(60),
    ):
        asking = asyncio.create_task(_read(client, stream=stream))
        await until(lambda: mailbox.load.running == 1)
        asking.cancel()
        await engine.closed.wait()

        assert mailbox.load.running == 0


async def _read(client: AsyncAnthropic, *, stream: bool) -> None:
    if stream:
        async with client.messages.stream(**asked()) as events:
            await events.get_final_message()
    else:
        await client.messages.create(**asked())
