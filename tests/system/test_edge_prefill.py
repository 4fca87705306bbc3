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

# Less than reading takes, and many times a piece of it.
PATIENCE, PIECE, PIECES = 4.0, 0.1, 45


class SlowReader:
    """Reads one token in each `PIECE` of a second, and says a word."""

    def prepare(self, request: ChatRequest) -> ChatRequest:
        return request

    async def generate(self, _: ChatRequest) -> AsyncGenerator[ChatChunk | Prefill]:
        for done in range(1, PIECES + 1):
            await asyncio.sleep(PIECE)
            yield Prefill(done=done, total=PIECES)
        yield ChatChunk(text="hello", finish_reason="stop", usage=Usage(prompt_tokens=PIECES, completion_tokens=1))


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
    patience = BusConfig(url=nats_url, first_timeout=PATIENCE)
    async with (
        stack(nats_url, tmp_path, bus_config=patience) as edge,
        chat_actor(edge.bus, SlowReader(), on_finished=finished.append),
        edge.http.post(route, json=body | {"stream": True}) as response,
    ):
        lines = (await response.read()).decode().splitlines()

    assert [line for line in lines if line.startswith(":")] == [
        f": prefill {done}/{PIECES}" for done in range(1, PIECES + 1)
    ]
    assert lines[-2].startswith(last)
    assert finished[0].first is not None
    assert finished[0].first > PATIENCE
