"""Streams of the Responses API: every event, and what they add up to."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai import NotFoundError
from openai.types.responses import Response

from actors.engines.echo import EchoEngine
from tests.support.nats import until
from tests.support.responses import responding
from tests.support.stack import CHAT_MODEL, GatedEngine, Stack

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
THINKS_SAYS_AND_CALLS = 'think: Hm.\nSunny today.\ncall: get_weather {"city": "Paris"}\ncall: get_weather {}\n'


@pytest.mark.parametrize("text", [THINKS_SAYS_AND_CALLS, "think: Hm.\n", "hello big world", ""])
async def test_events_of_a_stream_add_up_to_what_is_stored(nats_url: str, tmp_path: Path, text: str) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        body = {"model": CHAT_MODEL, "input": text, "tools": [TOOL], "stream": True}
        events = await _events(edge, body)
        stored = await (await edge.http.get(f"/v1/responses/{events[0]['response']['id']}")).json()

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.completed"
    assert events[0]["response"]["output"] == []
    assert events[-1]["response"] == stored
    assert _folded(events) == [item | {"status": "completed"} for item in stored["output"]] == stored["output"]


async def test_stream_has_these_events_in_this_order(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        stream = await edge.openai.responses.create(
            model=CHAT_MODEL, input='think: Hm.\nSunny today.\ncall: f {"a": 1}\n', tools=[TOOL], stream=True
        )
        kinds = [event.type.removeprefix("response.") async for event in stream]

    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]


async def test_stream_helper_of_the_client_assembles_the_response(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        async with edge.openai.responses.stream(
            model=CHAT_MODEL, input=THINKS_SAYS_AND_CALLS, tools=[TOOL | {"strict": True}]
        ) as stream:
            snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()

    assert snapshots[-1].strip() == final.output_text.strip() == "Sunny today."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert final.output[2].parsed_arguments == {"city": "Paris"}


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_that_was_cut_is_incomplete(nats_url: str, tmp_path: Path, stream: bool) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        body = {"model": CHAT_MODEL, "input": "hello big world", "max_output_tokens": 2}
        if stream:
            events = await _events(edge, body | {"stream": True})
            assert events[-1]["type"] == "response.incomplete"
            answer = Response(**events[-1]["response"])
        else:
            answer = await edge.openai.responses.create(**body)

    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == "hello big"
    assert answer.output[0].status == "incomplete"


async def test_stream_that_breaks_off_ends_as_a_failed_response(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine(crash=True)
    async with responding(nats_url, tmp_path, engine) as edge:
        stream = await edge.openai.responses.create(model=CHAT_MODEL, input="hi", stream=True)
        events = []
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                engine.gate.set()
        stored = await edge.openai.responses.retrieve(events[0].response.id)

    assert events[-1].type == "response.failed"
    assert events[-1].response == stored
    assert stored.status == "failed"
    assert stored.error is not None
    assert stored.error.code == "server_error"
    assert (stored.output_text, stored.output[0].status) == ("one", "incomplete")


async def test_client_that_leaves_ends_its_response_which_is_not_stored(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        stream = await edge.openai.responses.create(model=CHAT_MODEL, input="hi", stream=True)
        created = await anext(aiter(stream))
        assert created.type == "response.created"

        await stream.close()

        await until(engine.closed.is_set)
        with pytest.raises(NotFoundError):
            await edge.openai.responses.retrieve(created.response.id)


async def _events(edge: Stack, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a stream, having seen that each is named as its data says."""
    async with edge.http.post("/v1/responses", json=body) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        frames = (await answer.text()).removesuffix("\n\n").split("\n\n")
    named = [frame.removeprefix("event: ").split("\ndata: ") for frame in frames if not frame.startswith(":")]
    events = [json.loads(data) for _, data in named]
    assert [name for name, _ in named] == [event["type"] for event in events]
    return events


def _folded(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the output that the pieces add up to, each checked against its end."""
    items: list[dict[str, Any]] = []
    for event in events:
        what = event["type"].removeprefix("response.")
        if what == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
        elif what == "output_item.done":
            items[-1]["status"] = event["item"]["status"]
            assert items[-1] == event["item"]
        elif "item_id" in event:
            assert (event["item_id"], event["output_index"]) == (items[-1]["id"], len(items) - 1)
            _grow(items[-1], what, event)
        else:
            assert what in {"created", "in_progress", "completed"}
    return items


def _grow(item: dict[str, Any], what: str, event: dict[str, Any]) -> None:
    match what.split("."):
        case ["content_part", "added"]:
            item["content"].append(event["part"])
        case ["content_part", "done"]:
            assert item["content"][-1] == event["part"]
        case ["function_call_arguments", "delta"]:
            item["arguments"] += event["delta"]
        case ["function_call_arguments", "done"]:
            assert item["arguments"] == event["arguments"]
        case ["output_text" | "reasoning_text", "delta"]:
            item["content"][-1]["text"] += event["delta"]
        case _:
            assert what in {"output_text.done", "reasoning_text.done"}
            assert item["content"][-1]["text"] == event["text"]
