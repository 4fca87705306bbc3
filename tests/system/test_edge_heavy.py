"""What clients see of models that are loaded when they are asked, and that they ask by another name."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from bus.client import settled
from bus.frames import KEEP_ALIVE, Status
from bus.messages.chat import ChatChunk, ChatRequest, Usage
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.messages.models import ModelCard
from bus.serve import Caller, Endpoint
from bus.subjects import CHAT, COMPLETE, EMBED
from tests.support.envelope import error_of
from tests.support.models_owner import catalogue
from tests.support.nats import until
from tests.support.stack import CARDS, Stack, living, stack

ALIAS, MODEL = "alias", "org/heavy-7b"
USER = [{"role": "user", "content": "hi"}]
CHATTING = {"model": ALIAS, "messages": USER}
ANTHROPIC = CHATTING | {"max_tokens": 5}
RESPONDING = {"model": ALIAS, "input": "hi", "store": False}

ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHATTING),
    ("/v1/chat/completions", CHATTING | {"n": 2}),
    ("/v1/completions", {"model": ALIAS, "prompt": "hi"}),
    ("/v1/completions", {"model": ALIAS, "prompt": ["hi", "ho"]}),
    ("/v1/messages", ANTHROPIC),
    ("/v1/responses", RESPONDING),
]


async def chat(_: ChatRequest, __: Caller) -> AsyncGenerator[ChatChunk | Status]:
    """Answer as a slot does whose model had to be loaded first."""
    yield Status(instance="heavy-1", model=MODEL, position=1)
    yield Status(instance="heavy-1", model=MODEL, position=1, loading=3.9)
    yield Status(instance="heavy-1", model=MODEL)
    yield ChatChunk(text="hello")
    yield ChatChunk(finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1))


async def embed(_: EmbedRequest, __: Caller) -> AsyncGenerator[EmbedChunk | Status]:
    yield Status(instance="heavy-1", model=MODEL, loading=1.0)
    yield EmbedChunk(start=0, vectors=(b"\0\0\0\0",), prompt_tokens=1)


@asynccontextmanager
async def heavy(nats_url: str, folder: Path) -> AsyncGenerator[tuple[Stack, list[Msg]]]:
    """Run an edge before a model that is called by its alias; give what it was asked, as it came."""
    asked: list[Msg] = []

    async def on_message(msg: Msg) -> None:
        asked.append(msg)

    endpoints = (Endpoint(CHAT(ALIAS), chat), Endpoint(COMPLETE(ALIAS), chat), Endpoint(EMBED(ALIAS), embed))
    async with stack(nats_url, folder) as edge, living(edge.bus, "heavy", *endpoints):
        for endpoint in endpoints:
            await edge.bus.nc.subscribe(endpoint.address.name, cb=on_message)
        await settled(edge.bus.nc)
        yield edge, asked


def models_told(content: str) -> set[str]:
    """Return the models that the events of a stream name."""
    events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith("data: {")]
    heads = [event.get("response") or event.get("message") or event for event in events]
    return {head["model"] for head in heads if "model" in head}


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_answer_names_the_model_that_ran(nats_url: str, tmp_path: Path, route: str, body: dict[str, Any]) -> None:
    async with heavy(nats_url, tmp_path) as (edge, _):
        async with edge.http.post(route, json=body) as response:
            whole = await response.json()
        async with edge.http.post(route, json=body | {"stream": True}) as response:
            streamed = (await response.read()).decode()

    assert whole["model"] == MODEL
    assert models_told(streamed) == {MODEL}


async def test_embeddings_name_the_model_that_ran_and_ollama_the_one_that_was_asked(
    nats_url: str, tmp_path: Path
) -> None:
    async with heavy(nats_url, tmp_path) as (edge, _):
        embedded = await edge.openai.embeddings.create(model=ALIAS, input="hi")
        async with edge.http.post("/api/chat", json=CHATTING | {"stream": False}) as response:
            ollama = await response.json()

    assert (embedded.model, ollama["model"]) == (MODEL, ALIAS)


@pytest.mark.parametrize(
    ("route", "body"),
    [(route, body) for route, body in ROUTES if "n" not in body and body.get("prompt") != ["hi", "ho"]],
)
async def test_comments_tell_for_how_long_the_model_has_been_loading(
    nats_url: str, tmp_path: Path, route: str, body: dict[str, Any]
) -> None:
    async with heavy(nats_url, tmp_path) as (edge, _):
        async with edge.http.post(route, json=body | {"stream": True}) as response:
            lines = (await response.read()).decode().splitlines()

    assert [line for line in lines if line.startswith(":")] == [": queued 1", ": loading 3"]


@pytest.mark.parametrize(
    ("route", "body", "header"),
    [
        ("/v1/chat/completions", CHATTING, None),
        ("/v1/chat/completions", CHATTING | {"ttl": 60, "stream": True}, "60.0"),
        ("/v1/completions", {"model": ALIAS, "prompt": "hi", "ttl": 0.5}, "0.5"),
        ("/v1/embeddings", {"model": ALIAS, "input": "hi", "ttl": 1234567}, "1234567.0"),
        ("/v1/responses", RESPONDING | {"ttl": 60}, "60.0"),
        ("/api/chat", CHATTING | {"keep_alive": "5m"}, "300.0"),
        ("/api/generate", {"model": ALIAS, "prompt": "hi", "keep_alive": 0}, "0.0"),
        ("/api/embed", {"model": ALIAS, "input": "hi", "keep_alive": -1}, "-1.0"),
        ("/api/embeddings", {"model": ALIAS, "prompt": "hi", "keep_alive": "-1s"}, "-1.0"),
    ],
)
async def test_request_says_for_how_long_the_model_stays_loaded(
    nats_url: str, tmp_path: Path, route: str, body: dict[str, Any], header: str | None
) -> None:
    async with heavy(nats_url, tmp_path) as (edge, asked):
        async with edge.http.post(route, json=body) as response:
            await response.read()
        await until(lambda: asked)

    assert response.status == 200
    assert [(msg.headers or {}).get(KEEP_ALIVE) for msg in asked] == [header]


async def test_only_the_last_portion_of_many_texts_says_it(nats_url: str, tmp_path: Path) -> None:
    texts = ["x" * 400_000] * 3
    async with heavy(nats_url, tmp_path) as (edge, asked):
        await edge.openai.embeddings.create(model=ALIAS, input=texts, extra_body={"ttl": 1})
        await until(lambda: len(asked) == 3)

    assert [(msg.headers or {}).get(KEEP_ALIVE) for msg in asked] == [None, None, "1.0"]


@pytest.mark.parametrize(
    ("route", "body", "named"),
    [
        ("/v1/chat/completions", CHATTING | {"ttl": 0}, "ttl"),
        ("/v1/completions", {"model": ALIAS, "prompt": "hi", "ttl": -1}, "ttl"),
        ("/v1/embeddings", {"model": ALIAS, "input": "hi", "ttl": "5m"}, "ttl"),
        ("/v1/responses", RESPONDING | {"ttl": True}, "ttl"),
        ("/v1/responses", {"model": ALIAS, "input": "hi", "background": True, "ttl": 60}, "ttl"),
        ("/api/chat", CHATTING | {"keep_alive": "soon"}, "keep_alive"),
        ("/api/embed", {"model": ALIAS, "input": "hi", "keep_alive": []}, "keep_alive"),
    ],
)
async def test_what_is_no_length_of_time_is_refused_by_name(
    nats_url: str, tmp_path: Path, route: str, body: dict[str, Any], named: str
) -> None:
    async with heavy(nats_url, tmp_path) as (edge, _):
        async with edge.http.post(route, json=body) as response:
            told = await response.json()

    assert response.status == 400
    assert f"'{named}'" in str(told) or f"`{named}`" in str(told)


async def test_model_that_could_not_be_loaded_is_told_with_its_reason(nats_url: str, tmp_path: Path) -> None:
    broken = ModelCard(id="bad", kind="chat", tier=2, state="failed", created=1, error="config.json is missing.")
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (*CARDS, broken)):
        async with edge.http.post("/v1/chat/completions", json=CHATTING | {"model": "bad"}) as response:
            error = await error_of(response)

    assert (response.status, error["code"]) == (503, "unavailable")
    assert error["message"] == "The model 'bad' is failed: config.json is missing."
