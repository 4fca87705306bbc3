"""What goes wrong with a chat, as the official client hears of it, and as bytes."""

import asyncio
import json
from pathlib import Path

import pytest
from openai import APIError, BadRequestError, InternalServerError, NotFoundError, RateLimitError

from actors.engines.echo import EchoEngine
from actors.mailbox import Limits
from tests.support.models_owner import catalogue
from tests.support.stack import EMBED_MODEL, GatedEngine, beat, chat_actor, chat_body, stack


async def test_101st_waiting_request_is_refused(nats_url: str, tmp_path: Path) -> None:
    async with (
        stack(nats_url, tmp_path) as edge,
        chat_actor(edge.bus, GatedEngine(), Limits(concurrency=1, max_queue=100)),
    ):
        body = chat_body(stream=True)
        asked = [edge.http.post("/v1/chat/completions", json=body) for _ in range(101)]
        waiting = await asyncio.gather(*asked)
        with pytest.raises(RateLimitError) as plain:
            await edge.openai.chat.completions.create(**chat_body())
        with pytest.raises(RateLimitError) as streamed:
            await edge.openai.chat.completions.create(**chat_body(stream=True))

        for response in waiting:
            assert response.status == 200
            response.close()
        for error in (plain.value, streamed.value):
            assert error.code == "queue_full"
            assert error.type == "rate_limit_error"
            assert error.response.headers["Retry-After"] == "1"


async def test_crash_in_the_middle_is_an_error_frame_without_done(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine(crash=True)
    async with (
        stack(nats_url, tmp_path) as edge,
        chat_actor(edge.bus, engine),
        edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as response,
    ):
        await response.content.readuntil(b"one")
        engine.gate.set()
        rest = (await response.read()).decode()

        frames = [frame for frame in rest.split("\n\n") if frame.startswith("data: ")]
        error = json.loads(frames[-1].removeprefix("data: "))["error"]
        assert error["code"] == "crashed"
        assert set(error) == {"message", "type", "param", "code"}
        assert "[DONE]" not in rest


async def test_crash_raises_in_the_official_client(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine(crash=True)
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        stream = await edge.openai.chat.completions.create(**chat_body(stream=True))
        engine.gate.set()
        with pytest.raises(APIError) as raised:
            _ = [chunk async for chunk in stream]

        assert raised.value.code == "crashed"


async def test_process_reported_down_ends_its_streams_with_an_error_frame(nats_url: str, tmp_path: Path) -> None:
    async with (
        stack(nats_url, tmp_path) as edge,
        chat_actor(edge.bus, GatedEngine(), instance="chat-7"),
        edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as response,
    ):
        await response.content.readuntil(b"one")
        await beat(edge, "chat-7", "chat", state="down")
        async with asyncio.timeout(60):
            rest = (await response.read()).decode()

        assert '"code":"crashed"' in rest
        assert "[DONE]" not in rest


async def test_unknown_model_is_not_found(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus):
        for stream in (False, True):
            with pytest.raises(NotFoundError) as raised:
                await edge.openai.chat.completions.create(**chat_body(model="no/such", stream=stream))

            assert raised.value.code == "model_not_found"
            assert raised.value.param == "model"
            assert raised.value.request_id


async def test_known_model_that_is_away_may_be_asked_again(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus):
        with pytest.raises(InternalServerError) as raised:
            await edge.openai.chat.completions.create(**chat_body())

        assert raised.value.status_code == 503
        assert raised.value.code == "unavailable"
        assert raised.value.response.headers["Retry-After"] == "1"


async def test_model_for_something_else_is_a_bad_request(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus):
        with pytest.raises(BadRequestError) as raised:
            await edge.openai.chat.completions.create(**chat_body(model=EMBED_MODEL))

        assert raised.value.param == "model"
        assert "embeddings" in raised.value.message


async def test_prompt_that_is_too_long_is_refused_before_the_stream_begins(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine(context_length=2)):
        with pytest.raises(BadRequestError) as raised:
            await edge.openai.chat.completions.create(**chat_body(stream=True))

        assert raised.value.code == "context_length_exceeded"
        assert raised.value.param == "messages"
