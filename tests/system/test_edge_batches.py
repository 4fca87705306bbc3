"""/v1/batches before real actors, with OpenAI's client."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from actors.batch_runner import WINDOW
from actors.engines.echo import EchoEngine
from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.chat import ChatChunk, ChatRequest, Usage
from bus.subjects import EVENTS
from eventlog.events import JobQueued
from tests.support import make
from tests.support.batches import answers, batching, ended, line, submit
from tests.support.nats import until_it
from tests.support.stack import CHAT_MODEL, EMBED_MODEL, RERANK_MODEL, GatedEngine, chat_body

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"
# The echo reads one token per word.
TOO_LONG = chat_body("word " * 5000)


async def test_answers_are_those_that_the_routes_give(nats_url: str, tmp_path: Path) -> None:
    engine = TextEngine(TOY, TextLimits(warmup=False))
    bodies = {
        name: chat_body(f"Tell me about a {name}.", temperature=0, max_tokens=12, **more)
        for name, more in {"cat": {}, "dog": {"logprobs": True, "top_logprobs": 2}}.items()
    }
    direct = {}
    async with batching(nats_url, tmp_path, engine) as edge:
        lines = [line(name, body) for name, body in bodies.items()]
        batch = await ended(edge.openai, (await submit(edge.openai, lines, metadata={"k": "v"})).id)
        found = await answers(edge.openai, batch.output_file_id)
        for name, body in bodies.items():
            async with edge.http.post("/v1/chat/completions", json=body) as response:
                direct[name] = await response.json()
    await engine.unload()

    assert (batch.status, batch.metadata, batch.error_file_id) == ("completed", {"k": "v"}, None)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 2, "completed": 2, "failed": 0}
    assert list(found) == list(bodies)
    assert {name: each["response"]["status_code"] for name, each in found.items()} == {"cat": 200, "dog": 200}
    assert {name: _said(each["response"]["body"]) for name, each in found.items()} == {
        name: _said(each) for name, each in direct.items()
    }


async def test_vectors_are_those_that_the_route_gives(nats_url: str, tmp_path: Path) -> None:
    plain = {"model": EMBED_MODEL, "input": ["a cat", "a dog"]}
    bodies = {
        "numbers": plain,
        "base64": plain | {"encoding_format": "base64"},
        "short": plain | {"input": ["a cat", "word " * 600], "truncate": True, "dimensions": 4, "prompt_name": "query"},
    }
    direct = {}
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        lines = [line(name, body, url="/v1/embeddings") for name, body in bodies.items()]
        batch = await ended(edge.openai, (await submit(edge.openai, lines, "/v1/embeddings")).id)
        found = await answers(edge.openai, batch.output_file_id)
        for name, body in bodies.items():
            async with edge.http.post("/v1/embeddings", json=body) as response:
                direct[name] = await response.json()

    assert {name: each["response"]["body"] for name, each in found.items()} == direct


async def test_ranking_is_that_which_the_route_gives(nats_url: str, tmp_path: Path) -> None:
    url = "/v1/rerank"
    body = {"model": RERANK_MODEL, "query": "old bird", "documents": ["a", "bird", "old bird"], "top_n": 2}
    bodies = {"best": body, "long": body | {"documents": ["word " * 600], "truncate": True}}
    direct = {}
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        batch = await submit(edge.openai, [line(name, each, url=url) for name, each in bodies.items()], url)
        found = await answers(edge.openai, (await ended(edge.openai, batch.id)).output_file_id)
        for name, each in bodies.items():
            async with edge.http.post(url, json=each) as response:
                direct[name] = await response.json()

    told = {name: each["response"]["body"] for name, each in found.items()}
    assert told["best"]["id"].startswith("rerank-")
    assert {name: each | {"id": ""} for name, each in told.items()} == {
        name: each | {"id": ""} for name, each in direct.items()
    }


async def test_completions_are_those_that_the_route_gives(nats_url: str, tmp_path: Path) -> None:
    body = {"model": CHAT_MODEL, "prompt": "one two three", "echo": True, "max_tokens": 2}
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        batch = await submit(edge.openai, [line("a", body, url="/v1/completions")], "/v1/completions")
        found = await answers(edge.openai, (await ended(edge.openai, batch.id)).output_file_id)
        async with edge.http.post("/v1/completions", json=body) as response:
            direct = await response.json()

    told = found["a"]["response"]["body"]
    assert told["id"].startswith("cmpl-")
    assert {**told, "id": "", "created": 0} == {**direct, "id": "", "created": 0}


async def test_batch_with_wrong_lines_fails_and_names_them(nats_url: str, tmp_path: Path) -> None:
    wrong = {
        b"{not json": ("invalid_json_line", None),
        b'{"custom_id": "x", "method": "POST"}': ("invalid_request", "url"),
        line("good"): ("duplicate_custom_id", "custom_id"),
        line("", chat_body()): ("invalid_request", "custom_id"),
        line("1", method="GET"): ("invalid_request", "method"),
        line("2", url="/v1/embeddings"): ("url_mismatch", "url"),
        line("3", more=1): ("unsupported_parameter", "more"),
        line("4", chat_body(stream=True)): ("unsupported_parameter", "body.stream"),
        line("5", chat_body(n=2)): ("unsupported_parameter", "body.n"),
        line("6", chat_body(ttl=60)): ("unsupported_parameter", "body.ttl"),
        line("7", chat_body(temperature=7)): ("invalid_request", "body.temperature"),
        line("8", chat_body(model="local/none")): ("model_not_found", "body.model"),
        line("9", chat_body(model=EMBED_MODEL)): ("invalid_request", "body.model"),
        line("10", chat_body("x" * 1_000_000)): ("too_large", "body"),
    }
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        batch = await ended(edge.openai, (await submit(edge.openai, [line("good"), b"", *wrong])).id)
        empty = await ended(edge.openai, (await submit(edge.openai, [b"", b"\n"])).id)
        recorded = await EventLog(edge.bus).read(EVENTS)

    assert (batch.status, batch.output_file_id) == ("failed", None)
    assert batch.failed_at is not None
    assert _errors(batch) == [(number, *each) for number, each in enumerate(wrong.values(), 3)]
    assert _errors(empty) == [(None, "empty_file", None)]
    assert not [item for item in recorded if isinstance(item.event, JobQueued)]


async def test_requests_that_fail_stand_in_the_error_file(nats_url: str, tmp_path: Path) -> None:
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        batch = await ended(edge.openai, (await submit(edge.openai, [line("long", TOO_LONG), line("good")])).id)
        good = await answers(edge.openai, batch.output_file_id)
        bad = await answers(edge.openai, batch.error_file_id)
        async with edge.http.post("/v1/chat/completions", json=TOO_LONG) as response:
            direct = await response.json()

    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 2, "completed": 1, "failed": 1}
    assert (set(good), set(bad)) == ({"good"}, {"long"})
    assert bad["long"]["response"]["status_code"] == 400
    assert bad["long"]["response"]["body"] == direct
    assert direct["error"]["code"] == "context_length_exceeded"


async def test_refusal_by_a_model_names_the_field_as_the_route_does(nats_url: str, tmp_path: Path) -> None:
    bodies = {
        "/v1/embeddings": {"model": EMBED_MODEL, "input": ["fine", "word " * 600]},
        "/v1/rerank": {"model": RERANK_MODEL, "query": "bird", "documents": ["fine", "word " * 600]},
    }
    found, direct = {}, {}
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        for url, body in bodies.items():
            batch = await submit(edge.openai, [line("long", body, url=url)], url)
            found[url] = await answers(edge.openai, (await ended(edge.openai, batch.id)).error_file_id)
            async with edge.http.post(url, json=body) as response:
                direct[url] = await response.json()

    assert {url: each["long"]["response"]["body"] for url, each in found.items()} == direct
    assert [each["error"]["param"] for each in direct.values()] == ["input[1]", "documents[1]"]


async def test_cancelled_batch_keeps_what_is_done(nats_url: str, tmp_path: Path) -> None:
    rest = [str(number) for number in range(WINDOW + 10)]
    async with batching(nats_url, tmp_path, _Stubborn(), concurrency=1) as edge:
        client, log = edge.openai, EventLog(edge.bus)
        batch = await submit(client, [line("done", chat_body("done")), *map(line, rest)])
        # All that may be open are, the first of them runs for ever.
        await until_it(lambda: log.read(f"fusion.event.job.job-{batch.id}-{WINDOW + 1}.>"))
        running = await client.batches.retrieve(batch.id)
        beyond = await log.read(f"fusion.event.job.job-{batch.id}-{WINDOW + 2}.>")

        cancelled = await client.batches.cancel(batch.id)
        batch = await ended(client, batch.id)
        again = await client.batches.cancel(batch.id)
        found = await answers(client, batch.output_file_id)
        faults = await answers(client, batch.error_file_id)

    assert beyond == []
    assert (running.status, cancelled.status) == ("in_progress", "cancelling")
    assert (batch.status, again.status) == ("cancelled", "cancelled")
    assert batch.cancelled_at is not None
    counts = {"total": WINDOW + 11, "completed": 1, "failed": 0}
    assert [each.request_counts.model_dump() for each in (running, batch) if each.request_counts] == [counts] * 2
    assert list(found) == ["done"]
    assert list(faults) == rest
    assert {each["error"]["code"] for each in faults.values()} == {"batch_cancelled"}


async def test_batch_expires_when_its_time_is_over(nats_url: str, tmp_path: Path) -> None:
    async with batching(nats_url, tmp_path, GatedEngine(), concurrency=1) as edge:
        client = edge.openai
        file = await client.files.create(file=("input.jsonl", line("late")), purpose="batch")
        now = datetime.now(UTC)
        created = make.batch_created(
            at=now, batch_id=f"batch_{new_id()}", input_file_id=file.id, expires_at=now + timedelta(seconds=1)
        )
        await EventLog(edge.bus).record_next(created, after=0)

        batch = await ended(client, created.batch_id)
        faults = await answers(client, batch.error_file_id)

    assert (batch.status, batch.output_file_id) == ("expired", None)
    assert batch.expired_at is not None
    assert faults["late"]["error"]["code"] == "batch_expired"


async def test_batch_larger_than_its_window_is_done_in_order(nats_url: str, tmp_path: Path) -> None:
    names = [str(number) for number in range(WINDOW + 6)]
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        batch = await ended(edge.openai, (await submit(edge.openai, map(line, names))).id)
        found = await answers(edge.openai, batch.output_file_id)
        recorded = await EventLog(edge.bus).read(EVENTS)

    queued = [item.event for item in recorded if isinstance(item.event, JobQueued)]
    assert list(found) == names
    assert [each.job_id for each in queued] == [f"job-{batch.id}-{number + 1}" for number in range(len(names))]
    assert {(each.priority, each.batch_id, each.expires_at is None) for each in queued} == {("low", batch.id, False)}


async def test_batch_waits_where_there_is_no_room_for_its_jobs(nats_url: str, tmp_path: Path) -> None:
    names = [str(number) for number in range(6)]
    engine = GatedEngine()
    async with batching(nats_url, tmp_path, engine, max_queued=2, concurrency=1) as edge:
        batch = await submit(edge.openai, map(line, names))
        log = EventLog(edge.bus)
        await until_it(lambda: log.read(f"fusion.event.job.job-{batch.id}-2.>"))
        engine.gate.set()
        found = await answers(edge.openai, (await ended(edge.openai, batch.id)).output_file_id)

    assert list(found) == names


async def test_what_is_no_batch_is_refused(nats_url: str, tmp_path: Path) -> None:
    good = {"input_file_id": "file-none", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    wrong: list[tuple[dict[str, Any], int, str]] = [
        (good, 404, "input_file_id"),
        (good | {"endpoint": "/v1/responses"}, 400, "endpoint"),
        (good | {"completion_window": "1h"}, 400, "completion_window"),
        (good | {"metadata": {str(number): "x" for number in range(17)}}, 400, "metadata"),
        (good | {"metadata": {"x": 1}}, 400, "metadata[...]"),
        (good | {"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, 400, "output_expires_after"),
        (good | {"more": 1}, 400, "more"),
    ]
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        told = []
        for body, _, _ in wrong:
            async with edge.http.post("/v1/batches", json=body) as response:
                told.append((response.status, (await response.json())["error"]["param"]))
        with pytest.raises(openai.NotFoundError, match="There is no batch 'batch_0'"):
            await edge.openai.batches.retrieve("batch_0")
        with pytest.raises(openai.NotFoundError, match="There is no batch"):
            await edge.openai.batches.cancel("nonsense.*")

    assert told == [(status, param) for _, status, param in wrong]


async def test_same_idempotency_key_is_the_same_batch(nats_url: str, tmp_path: Path) -> None:
    again = {"extra_headers": {"Idempotency-Key": "one"}}
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        batches = edge.openai.batches
        file = await edge.openai.files.create(file=("input.jsonl", line("a")), purpose="batch")
        body = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        made = [(await batches.create(**body, **again)).id for _ in range(2)]  # type: ignore[arg-type]
        with pytest.raises(openai.ConflictError, match="another file or endpoint"):
            await batches.create(**body | {"endpoint": "/v1/embeddings"}, **again)  # type: ignore[arg-type]
        await ended(edge.openai, made[0])
        listed = [batch.id async for batch in batches.list()]

    assert made == listed * 2


async def test_batches_are_listed_newest_first(nats_url: str, tmp_path: Path) -> None:
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        made = [(await submit(edge.openai, [line("a")])).id for _ in range(3)]
        pages = edge.openai.batches.list(limit=2)
        listed = [batch.id async for batch in pages]
        with pytest.raises(openai.BadRequestError, match="There is no item 'batch_0'"):
            await edge.openai.batches.list(after="batch_0")

    assert listed == made[::-1]


class _Stubborn(GatedEngine):
    """Says "done" to that, and to everything else nothing for ever."""

    async def generate(self, work: ChatRequest) -> AsyncGenerator[ChatChunk]:
        if work.messages[0].content != "done":
            await self.gate.wait()
        yield ChatChunk(text="done", finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1))


def _said(body: dict[str, Any]) -> dict[str, Any]:
    """Return a completion without what every answer has of its own."""
    assert body["id"].startswith("chatcmpl-")
    usage = {**body["usage"], "prompt_tokens_details": None}  # Read again, a prompt is known.
    choice = body["choices"][0]
    # In another batch the last digits of numbers may be others.
    tokens = [each["token"] for each in (choice["logprobs"] or {}).get("content", ())]
    return {**body, "id": "", "created": 0, "usage": usage, "choices": [{**choice, "logprobs": tokens}]}


def _errors(batch: Any) -> list[tuple[int | None, str, str | None]]:
    assert batch.errors
    assert all(each.message for each in batch.errors.data)
    return [(each.line, each.code, each.param) for each in batch.errors.data]
