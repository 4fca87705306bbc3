"""A client that reads slower than the model writes: it costs a bounded amount of memory, and is cut."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientResponse
from structlog.testing import capture_logs

from actors.engines.echo import EchoEmbeddings, EchoTexts
from actors.mailbox import Finished
from bus.messages.chat import ChatChunk, ChatRequest
from bus.messages.embeddings import EmbedChunk
from http_edge.config import EdgeConfig
from tests.support.nats import until
from tests.support.stack import EMBED_MODEL, Stack, chat_actor, chat_body, embeddings_actor, stack

# As bus/inbox.py has it.
MOST_WAITING = 4096


class EndlessEngine:
    """Says the same piece for ever."""

    def __init__(self) -> None:
        self.said = 0

    def prepare(self, request: ChatRequest) -> ChatRequest:
        return request

    async def generate(self, _: ChatRequest) -> AsyncGenerator[ChatChunk]:
        while True:
            self.said += 1
            yield ChatChunk(text="x" * 4096)
            await asyncio.sleep(0)


def stop_reading(response: ClientResponse) -> Any:
    """Have the client's system take no more than it has room for; return what reads on."""
    assert response.connection is not None
    transport: Any = response.connection.transport
    transport.pause_reading()
    return transport


def waiting(edge: Stack) -> int:
    """Return how many pieces the edge keeps."""
    return sum(len(answer._waiting) for answer in edge.edge_bus.inbox._answers.values())


async def test_client_that_reads_nothing_is_cut_and_its_place_is_free(nats_url: str, tmp_path: Path) -> None:
    finished: list[Finished[Any]] = []
    kept = 0
    async with (
        stack(nats_url, tmp_path, EdgeConfig(port=0, write_seconds=0.5)) as edge,
        chat_actor(edge.bus, EndlessEngine(), on_finished=finished.append) as mailbox,
        edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as response,
    ):

        def is_cut() -> bool:
            nonlocal kept
            kept = max(kept, waiting(edge))
            return bool(finished)

        transport = stop_reading(response)
        await until(is_cut)
        transport.resume_reading()
        with pytest.raises(ClientError):
            await response.read()

        assert finished[0].outcome == "cancelled"
        assert mailbox.load.running == 0
        assert kept <= MOST_WAITING
        assert not edge.edge_bus.inbox._answers


class LongEmbeddings(EchoEmbeddings):
    """Its vectors are long."""

    async def embed(self, work: EchoTexts) -> AsyncGenerator[EmbedChunk]:
        for start in range(len(work.texts)):
            yield EmbedChunk(start=start, vectors=(bytes(300_000),), prompt_tokens=1)


async def test_client_that_does_not_read_its_vectors_is_cut(nats_url: str, tmp_path: Path) -> None:
    body = {"model": EMBED_MODEL, "input": ["a"] * 60, "encoding_format": "base64"}
    async with (
        stack(nats_url, tmp_path, EdgeConfig(port=0, write_seconds=3.0)) as edge,
        embeddings_actor(edge.bus, LongEmbeddings()),
    ):
        with capture_logs() as logs:
            async with edge.http.post("/v1/embeddings", json=body) as response:
                transport = stop_reading(response)
                await until(lambda: any(entry["event"] == "http.request" for entry in logs))
                transport.resume_reading()
                with pytest.raises(ClientError):
                    await response.read()
        async with edge.http.post("/v1/embeddings", json=body) as response:
            whole = await response.json()

    assert [entry["status"] for entry in logs if entry["event"] == "http.request"] == [499]
    assert len(whole["data"]) == 60


async def test_client_that_has_missed_pieces_is_told_so(nats_url: str, tmp_path: Path) -> None:
    engine = EndlessEngine()
    async with (
        stack(nats_url, tmp_path, EdgeConfig(port=0, write_seconds=60)) as edge,
        chat_actor(edge.bus, engine) as mailbox,
        edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as response,
    ):
        transport = stop_reading(response)
        await until(lambda: waiting(edge) == MOST_WAITING)
        much = engine.said + 1000
        await until(lambda: engine.said > much)
        kept = waiting(edge)
        transport.resume_reading()
        last = (await response.read()).rstrip().rpartition(b"\n")[2]

        await until(lambda: mailbox.load.running == 0)
        assert kept == MOST_WAITING
        assert b'"code":"stream_broken"' in last


async def test_client_that_leaves_several_answers_is_not_logged_as_a_mistake(
    nats_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished: list[Finished[Any]] = []
    async with (
        stack(nats_url, tmp_path, EdgeConfig(port=0, write_seconds=0.5)) as edge,
        chat_actor(edge.bus, EndlessEngine(), on_finished=finished.append),
        edge.http.post("/v1/chat/completions", json=chat_body(stream=True, n=2)) as response,
    ):
        stop_reading(response)
        await until(lambda: len(finished) == 2)

    assert [record.name for record in caplog.records if record.name == "aiohttp.server"] == []
