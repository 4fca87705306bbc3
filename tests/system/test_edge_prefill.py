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


class SlowReader:
    """Reads five tokens, one each half a second, and says a word."""

    def prepare(self, request: ChatRequest) -> ChatRequest:
        return request

    async def generate(self, _: ChatRequest) -> AsyncGenerator[ChatChunk | Prefill]:
        for done in range(1, 6):
            await asyncio.sleep(0.5)
            yield Prefill(done=done, total=5)
        yield ChatChunk(text="hello", finish_reason="stop", usage=Usage(prompt_tokens=5, completion_tokens=1))


@pytest.mark.parametrize(
    ("route", "body", "last"),
    [
        ("/v1/chat/completions", chat_body(), "data: [DONE]"),
        ("/v1/responses", {"model": CHAT_MODEL, "input": "hi", "store": False}, 'data: {"type":"response.completed"'),
    ],
)
async def test_progress_is_a_comment_and_counts_as_a_sign_of_life(
    nats_url: str, tmp_path: Path, route: str, body: dict[str, Any], last: str
) -> None:
    finished: list[Finished[ChatChunk]] = []
    # Less than reading takes, and more than a piece of it.
    patience = BusConfig(url=nats_url, first_timeout=2.0)
    async with (
        stack(nats_url, tmp_path, bus_config=patience) as edge,
        chat_actor(edge.bus, SlowReader(), on_finished=finished.append),
        edge.http.post(route, json=body | {"stream": True}) as response,
    ):
        lines = (await response.read()).decode().splitlines()

    assert [line for line in lines if line.startswith(":")] == [f": prefill {done}/5" for done in range(1, 6)]
    assert lines[-2].startswith(last)
    assert finished[0].first is not None
    assert finished[0].first > 2.0
