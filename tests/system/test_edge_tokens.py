"""POST /v1/tokenize and /v1/detokenize at the edge."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.engines.echo import EchoEngine
from actors.mailbox import Limits
from tests.support.models_owner import catalogue
from tests.support.nats import until
from tests.support.stack import CHAT_MODEL, EMBED_MODEL, Stack, chat_actor, chat_body, stack


async def post(edge: Stack, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with edge.http.post(path, json={"model": CHAT_MODEL} | body) as response:
        return response.status, await response.json()


async def test_tokens_of_a_text_are_counted_and_read_the_same_again(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        status, told = await post(edge, "/v1/tokenize", prompt="one two one two")
        _, text = await post(edge, "/v1/detokenize", tokens=told["tokens"])

        assert status == 200
        assert set(told) == {"count", "max_model_len", "tokens"}
        assert told["count"] == len(told["tokens"]) == 4
        assert told["max_model_len"] == 4096
        assert text == {"prompt": "one two one two"}


async def test_tokens_of_a_conversation_are_counted(nats_url: str, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": [{"type": "text", "text": "c"}]}]
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        _, told = await post(edge, "/v1/tokenize", messages=messages, add_generation_prompt=True)

        assert told["count"] == 3


async def test_tokens_are_told_while_every_place_is_taken(nats_url: str, tmp_path: Path) -> None:
    limits = Limits(concurrency=1, max_queue=0)
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine(delay=60), limits) as mailbox:
        running = asyncio.create_task(edge.http.post("/v1/chat/completions", json=chat_body()).__aenter__())
        await until(lambda: mailbox.load.running)
        status, _ = await post(edge, "/v1/tokenize", prompt="one")
        running.cancel()
        await asyncio.wait((running,))

        assert status == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/tokenize", {}, "messages"),
        ("/v1/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/v1/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/v1/tokenize", {"prompt": "a", "return_token_strs": True}, "return_token_strs"),
        ("/v1/tokenize", {"prompt": "a", "surprise": 1}, "surprise"),
        ("/v1/detokenize", {}, "tokens"),
        ("/v1/detokenize", {"tokens": "a"}, "tokens"),
        ("/v1/detokenize", {"tokens": [77]}, "tokens"),
        ("/v1/detokenize", {"tokens": [-1]}, "tokens"),
        ("/v1/detokenize", {"tokens": [0] * 131_073}, "tokens"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_name(
    nats_url: str, tmp_path: Path, path: str, body: dict[str, Any], param: str
) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        status, told = await post(edge, path, **body)

        assert status == 400
        assert told["error"]["param"].startswith(param)


@pytest.mark.parametrize(("model", "status"), [("nope", 404), (EMBED_MODEL, 400)])
async def test_only_a_chat_model_of_the_catalogue_has_tokens(
    nats_url: str, tmp_path: Path, model: str, status: int
) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus):
        for path, body in (("/v1/tokenize", {"prompt": "a"}), ("/v1/detokenize", {"tokens": [1]})):
            found, told = await post(edge, path, model=model, **body)

            assert found == status
            assert told["error"]["param"] == "model"
