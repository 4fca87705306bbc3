"""Chat completions as the official client, and as bytes."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession

from actors.engines.echo import EchoEngine
from actors.mailbox import Finished, Limits
from http_edge.app import serving_http
from http_edge.config import EdgeConfig
from tests.support.nats import until
from tests.support.stack import CHAT_MODEL, GatedEngine, chat_actor, chat_body, stack

MESSAGES = [{"role": "user", "content": "hello big world"}]


async def test_plain_answer_has_text_usage_and_ids(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        answer = await edge.openai.chat.completions.create(
            model=CHAT_MODEL, messages=MESSAGES, extra_headers={"x-request-id": "my-own-id"}
        )

        assert answer.choices[0].message.content == "hello big world"
        assert answer.choices[0].message.refusal is None
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == CHAT_MODEL
        assert answer.object == "chat.completion"
        assert answer.id == "chatcmpl-my-own-id"
        assert answer._request_id == "my-own-id"
        assert answer.usage is not None
        assert answer.usage.model_dump(exclude_none=True) == {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


async def test_answer_can_be_sent_back_as_history(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        first = await edge.openai.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES)
        second = await edge.openai.chat.completions.create(
            model=CHAT_MODEL,
            messages=[
                {"role": "developer", "content": "be brief"},
                *MESSAGES,
                first.choices[0].message,
                first.choices[0].message.model_dump(),
                {"role": "user", "content": [{"type": "text", "text": "once"}, {"type": "text", "text": " more"}]},
            ],
        )

        assert second.choices[0].message.content == "once more"


async def test_stream_gives_words_reason_and_usage(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        stream = await edge.openai.chat.completions.create(
            model=CHAT_MODEL,
            messages=MESSAGES,
            max_completion_tokens=2,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

        texts = [chunk.choices[0].delta.content for chunk in chunks[:-1]]
        assert texts == ["", "hello", " big", None]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 2


async def test_stream_helper_of_the_client_assembles_the_answer(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        async with edge.openai.chat.completions.stream(model=CHAT_MODEL, messages=MESSAGES) as stream:
            kinds = {event.type async for event in stream}
            final = await stream.get_final_completion()

        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert final.choices[0].message.content == "hello big world"


@pytest.mark.parametrize("with_usage", [False, True])
async def test_stream_is_these_bytes(nats_url: str, tmp_path: Path, with_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if with_usage else {}
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        body = chat_body('say "hé\nthere"', stream=True, **options)
        async with edge.http.post("/v1/chat/completions", json=body, headers={"x-request-id": "r"}) as response:
            got = await response.read()

        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["x-request-id"] == "r"
        created = json.loads(got.split(b"\n\n")[0].removeprefix(b"data: "))["created"]
        head = f'data: {{"id":"chatcmpl-r","object":"chat.completion.chunk","created":{created},"model":"{CHAT_MODEL}"'
        tail = ',"usage":null}\n\n' if with_usage else "}\n\n"
        deltas = [
            ('{"role":"assistant","content":""}', "null"),
            ('{"content":"say"}', "null"),
            ('{"content":" \\"hé"}', "null"),
            ('{"content":"\\nthere\\""}', "null"),
            ("{}", '"stop"'),
        ]
        want = "".join(
            f'{head},"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}]{tail}'
            for delta, reason in deltas
        )
        if with_usage:
            usage = (
                '{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":0}}'
            )
            want += f'{head},"choices":[],"usage":{usage}}}\n\n'
        assert got.decode() == want + "data: [DONE]\n\n"


async def test_waiting_stream_is_told_its_place_again_and_again(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    config = EdgeConfig(port=0, sse_comment_seconds=0.02)
    async with (
        stack(nats_url, tmp_path, config) as edge,
        chat_actor(edge.bus, engine, Limits(concurrency=1)),
        edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as first,
        edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as second,
        asyncio.timeout(60),
    ):
        lines = [await second.content.readline() for _ in range(6)]
        engine.gate.set()
        rest = (await second.read()).decode()
        running = (await first.read()).decode()

        assert lines == [b": queued 1\n", b"\n"] * 3
        assert rest.endswith("data: [DONE]\n\n")
        assert ": working\n\n" in running
        assert ": queued" not in running


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_that_was_read_to_its_end_counts_as_completed(nats_url: str, tmp_path: Path, stream: bool) -> None:
    finished: list[Finished[Any]] = []
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine(), on_finished=finished.append):
        body = chat_body(stream=stream)
        for _ in range(10):
            async with edge.http.post("/v1/chat/completions", json=body, headers={"x-request-id": "r"}) as response:
                await response.read()
        await until(lambda: len(finished) == 10)

        assert {(each.outcome, each.request_id) for each in finished} == {("completed", "r")}


async def test_client_that_leaves_a_stream_ends_the_generation(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine) as mailbox:
        async with edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as response:
            assert response.status == 200
            await response.content.readuntil(b"one")
            response.close()

        async with asyncio.timeout(60):
            await engine.closed.wait()
        assert mailbox.load.running == 0


async def test_client_that_leaves_a_plain_request_ends_the_generation(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine) as mailbox:
        asking = asyncio.create_task(edge.http.post("/v1/chat/completions", json=chat_body()))
        await until(lambda: mailbox.load.running == 1)
        asking.cancel()
        async with asyncio.timeout(60):
            await engine.closed.wait()

        assert mailbox.load.running == 0


async def test_parameter_the_client_always_sends_is_ignored(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        answer = await edge.openai.chat.completions.create(
            model=CHAT_MODEL,
            messages=MESSAGES,
            stop="big",
            user="me",
            store=True,
            metadata={"a": "b"},
            service_tier="auto",
            parallel_tool_calls=False,
            tools=[],
            tool_choice="auto",
            n=1,
            logprobs=False,
            response_format={"type": "text"},
            modalities=["text"],
            temperature=None,
            logit_bias={"5": 1},
            seed=7,
            extra_body={"top_k": 3, "max_tokens": None},
        )

        assert answer.choices[0].message.content == "hello "


async def test_running_request_is_finished_when_the_edge_stops(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with stack(nats_url, tmp_path) as outer, chat_actor(outer.bus, engine), ClientSession() as http:
        config = EdgeConfig(port=0, drain_seconds=20)
        async with serving_http(outer.edge_bus, config, outer.blobs, outer.blobs) as (host, port):
            url = f"http://{host}:{port}"
            response = await http.post(f"{url}/v1/chat/completions", json=chat_body(stream=True))
            await response.content.readuntil(b"one")
            opening = asyncio.create_task(_open_when_nothing_is_accepted(http, url, engine.gate))
        rest = await response.read()
        await opening

        assert rest.endswith(b"data: [DONE]\n\n")


async def _open_when_nothing_is_accepted(http: ClientSession, url: str, gate: asyncio.Event) -> None:
    with suppress(ClientConnectionError):
        async with asyncio.timeout(60):
            while True:
                async with http.get(f"{url}/livez"):
                    pass
    gate.set()
