"""What a stream shows while a long prompt is read."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from actors.mailbox import Finished
from bus.config import BusConfig
from bus.frames import Prefill
from bus.messages.chat import ChatChunk, ChatRequest, Usage
from tests.support.stack import CHAT_MODEL, chat_actor, chat_body, stack


class Reader:
    """Reads five tokens, with a pause before each, and says a word."""

    def __init__(self, pause: float = 0.0) -> None:
        self._pause = pause

    def prepare(self, request: ChatRequest) -> ChatRequest:
        return request

    async def generate(self, _: ChatRequest) -> AsyncGenerator[ChatChunk | Prefill]:
        for done in range(1, 6):
            await asyncio.sleep(self._pause)
            yield Prefill(done=done, total=5)
        yield ChatChunk(text="hello", finish_reason="stop", usage=Usage(prompt_tokens=5, completion_tokens=1))


async def test_progress_is_a_comment_and_counts_as_a_sign_of_life(nats_url: str, tmp_path: Path) -> None:
    finished: list[Finished[ChatChunk]] = []
    # Less than reading takes, and more than a piece of it.
    patience = BusConfig(url=nats_url, first_timeout=2.0)
    async with (
        stack(nats_url, tmp_path, bus_config=patience) as edge,
        chat_actor(edge.bus, Reader(pause=0.5), on_finished=finished.append),
        edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as response,
    ):
        lines = (await response.read()).decode().splitlines()

    assert [line for line in lines if line.startswith(":")] == [f": prefill {done}/5" for done in range(1, 6)]
    assert lines[-2] == "data: [DONE]"
    assert finished[0].first is not None
    assert finished[0].first > 2.0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi", "store": False}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}),
    ],
)
async def test_every_stream_that_has_comments_tells_the_progress(
    nats_url: str, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, Reader()):
        async with edge.http.post(path, json={"model": CHAT_MODEL, "stream": True} | body) as response:
            lines = (await response.read()).decode().splitlines()

    assert [line for line in lines if line.startswith(":")] == [f": prefill {done}/5" for done in range(1, 6)]
