"""The Responses API as the official client has it, over real actors and a real log."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, BadRequestError, InternalServerError, NotFoundError
from openai.types.responses import Response

from actors.engines.blas import prepare_blas
from actors.engines.echo import EchoEngine
from bus.messages.chat import Message, NamedTool, Tool, ToolCall
from tests.support.nats import server_running, until_it
from tests.support.responses import KeepingEngine, responding
from tests.support.stack import CHAT_MODEL, GatedEngine, Stack, catalogue, chat_actor, stack

# Before anything here imports mlx.
prepare_blas()

from pydantic import BaseModel, Field  # noqa: E402 - stays with the others

from actors.engines.text import TextEngine  # noqa: E402 - imports mlx
from actors.engines.text_model import TextLimits  # noqa: E402 - imports mlx
from tests.support import tiny_models  # noqa: E402 - stays with the others

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: dict[str, Any] = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    ({"truncation": "auto"}, "truncation"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"max_tool_calls": 1}, "max_tool_calls"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"text": {"format": {"type": "json_object"}}}, "text.format"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"background": True, "store": False}, "store"),
    ({"background": True, "stream": True}, "stream"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"include": ["message.output_text.logprobs"]}, "top_logprobs"),
    ({"include": ["everything"]}, "include[0]"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": 3, "background": True}, "temperature"),
    ({"max_output_tokens": 5000}, "input"),
    ({"metadata": {"a": "b" * 513}}, "metadata[...]"),
    ({"previous_response_id": "resp_0"}, "previous_response_id"),
    ({"previous_response_id": "x" * 5000}, "previous_response_id"),
    ({"input": []}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": ["x"]}, "input[0]"),
    ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
    ({"seed": 1}, "seed"),
]
THINKS_SAYS_AND_CALLS = 'think: Hm.\nSunny today.\ncall: get_weather {"city": "Paris"}\ncall: get_weather {}\n'


async def test_whole_answer_is_openais_response(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, KeepingEngine()) as edge:
        answer = await edge.openai.responses.create(
            model=CHAT_MODEL, input="hello big world", instructions="be brief", metadata={"who": "me"}, temperature=0.5
        )

    assert answer.id.startswith("resp_")
    assert answer.status == "completed"
    assert answer.completed_at is not None
    assert answer.output_text == "hello big world"
    assert answer.output[0].id == f"msg_{answer.id.removeprefix('resp_')}_0"
    assert (answer.model, answer.instructions, answer.metadata) == (CHAT_MODEL, "be brief", {"who": "me"})
    assert (answer.temperature, answer.top_p, answer.tool_choice, answer.tools) == (0.5, None, "auto", [])
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }


async def test_stored_answer_can_be_had_and_deleted(nats_url: str, tmp_path: Path) -> None:
    said: Any = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        responses = edge.openai.responses
        answer = await responses.create(model=CHAT_MODEL, input=said)
        again = await responses.retrieve(answer.id)
        newest = await responses.input_items.list(answer.id, limit=1)
        oldest = [item async for item in responses.input_items.list(answer.id, limit=1, order="asc")]
        await responses.delete(answer.id)

        for gone in (responses.retrieve, responses.delete, responses.cancel, responses.input_items.list):
            with pytest.raises(NotFoundError) as missing:
                await gone(answer.id)
            assert missing.value.code == "response_not_found"

    assert again == answer
    assert newest.has_more
    assert [part.text for item in (*newest.data, *oldest) for part in item.content] == ["two", "one", "two"]
    assert newest.data[0].id == oldest[1].id


async def test_answer_that_is_not_to_be_stored_is_not(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        answer = await edge.openai.responses.create(model=CHAT_MODEL, input="hi", store=False)

        with pytest.raises(NotFoundError):
            await edge.openai.responses.retrieve(answer.id)
        with pytest.raises(BadRequestError) as refused:
            await edge.openai.responses.create(model=CHAT_MODEL, input="hi", previous_response_id=answer.id)

    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


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


@pytest.mark.parametrize("is_dumped", [False, True])
async def test_answer_with_calls_can_be_sent_back_with_their_outputs(
    nats_url: str, tmp_path: Path, is_dumped: bool
) -> None:
    engine = KeepingEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        first = await edge.openai.responses.create(
            model=CHAT_MODEL, input=THINKS_SAYS_AND_CALLS, tools=[TOOL], tool_choice="required"
        )
        said: list[Any] = [item.model_dump() if is_dumped else item for item in first.output]
        said += [
            {"type": "function_call_output", "call_id": "call-0", "output": "sun"},
            {"type": "function_call_output", "call_id": "call-1", "output": [{"type": "input_text", "text": "rain"}]},
        ]
        second = await edge.openai.responses.create(
            model=CHAT_MODEL, input=said, tools=[TOOL], tool_choice={"type": "function", "name": "get_weather"}
        )

    calls = tuple(
        ToolCall(id=f"call-{index}", name="get_weather", arguments=arguments)
        for index, arguments in enumerate(('{"city": "Paris"}', "{}"))
    )
    assert engine.asked[0].tools == (Tool(name="get_weather", parameters=SCHEMA, strict=False),)
    assert [each.tool_choice for each in engine.asked] == ["required", NamedTool(name="get_weather")]
    assert engine.asked[1].messages == (
        Message(role="assistant", reasoning_content="Hm.", content=first.output_text, tool_calls=calls),
        Message(role="tool", content="sun", tool_call_id="call-0"),
        Message(role="tool", content="rain", tool_call_id="call-1"),
    )
    assert second.output_text == "rain"


async def test_conversation_goes_on_after_everything_was_restarted(tmp_path: Path) -> None:
    engine = KeepingEngine()
    async with server_running(tmp_path) as server:
        async with responding(server.url, tmp_path, engine) as edge:
            first = await edge.openai.responses.create(model=CHAT_MODEL, input="one", instructions="be brief")
            second = await edge.openai.responses.create(
                model=CHAT_MODEL, input="two", previous_response_id=first.id, background=True
            )
            await _ended(edge, second.id)
        await server.kill()
        await server.start()
        async with responding(server.url, tmp_path, engine) as edge:
            third = await edge.openai.responses.create(
                model=CHAT_MODEL, input="three", previous_response_id=second.id, instructions="be long"
            )
            await edge.openai.responses.delete(first.id)
            with pytest.raises(BadRequestError) as refused:
                await edge.openai.responses.create(model=CHAT_MODEL, input="four", previous_response_id=third.id)

    assert third.previous_response_id == second.id
    assert [(message.role, message.content) for message in engine.asked[-1].messages] == [
        ("system", "be long"),
        ("user", "one"),
        ("assistant", "one"),
        ("user", "two"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    assert refused.value.code == "previous_response_not_found"
    assert first.id in str(refused.value)


async def test_response_in_the_background_is_polled_until_it_is_there(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        queued = await edge.openai.responses.create(model=CHAT_MODEL, input="hi", background=True)
        await until_it(lambda: _is(edge, queued.id, "in_progress"))
        with pytest.raises(BadRequestError, match="in_progress"):
            await edge.openai.responses.create(model=CHAT_MODEL, input="on", previous_response_id=queued.id)
        engine.gate.set()
        done = await _ended(edge, queued.id)
        again = await edge.openai.responses.retrieve(queued.id)
        items = await edge.openai.responses.input_items.list(queued.id)

    assert (queued.status, queued.output, queued.background) == ("queued", [], True)
    assert (done.status, done.output_text) == ("completed", "one two")
    assert done.completed_at is not None
    assert done.usage is not None
    assert done.usage.output_tokens == 2
    assert again == done
    assert items.data[0].content[0].text == "hi"


async def test_response_in_the_background_is_cancelled(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        responses = edge.openai.responses
        running = await responses.create(model=CHAT_MODEL, input="hi", background=True)
        await until_it(lambda: _is(edge, running.id, "in_progress"))
        waiting = await responses.create(model=CHAT_MODEL, input="hi", background=True)

        assert (await responses.cancel(waiting.id)).status == "cancelled"
        await responses.cancel(running.id)

        ended = await _ended(edge, running.id)
        assert (ended.status, ended.output) == ("cancelled", [])
        assert (await responses.cancel(running.id)).status == "cancelled"
        assert engine.closed.is_set()


async def test_response_in_the_background_that_the_model_refuses_has_failed(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine(context_length=2)) as edge:
        queued = await edge.openai.responses.create(model=CHAT_MODEL, input="hello big world", background=True)
        ended = await _ended(edge, queued.id)

    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == "invalid_prompt"
    assert "context length" in ended.error.message


async def test_only_a_response_in_the_background_can_be_cancelled(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        answer = await edge.openai.responses.create(model=CHAT_MODEL, input="hi")

        with pytest.raises(BadRequestError, match="background"):
            await edge.openai.responses.cancel(answer.id)


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

        await until_it(engine.closed.wait)
        with pytest.raises(NotFoundError):
            await edge.openai.responses.retrieve(created.response.id)


async def test_what_cannot_be_honoured_is_refused_by_name(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        for more, param in REFUSED:
            async with edge.http.post("/v1/responses", json={"model": CHAT_MODEL, "input": "hi"} | more) as answer:
                error = (await answer.json())["error"]

            assert (answer.status, error["param"]) == (400, param), (more, error)


async def test_answer_that_cannot_be_stored_is_an_error(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        with pytest.raises(InternalServerError) as failed:
            await edge.openai.responses.create(model=CHAT_MODEL, input="hi")
        with pytest.raises(APIError) as broken:
            async for event in await edge.openai.responses.create(model=CHAT_MODEL, input="hi", stream=True):
                assert event.type != "response.completed"

    assert (failed.value.code, broken.value.code) == ("unavailable", "unavailable")


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"background": True}])
async def test_unknown_model_is_not_found(nats_url: str, tmp_path: Path, more: dict[str, Any]) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge, catalogue(edge.bus):
        with pytest.raises(NotFoundError) as refused:
            await edge.openai.responses.create(model="nope", input="hi", **more)

    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


class Person(BaseModel):
    name: str = Field(pattern="^[A-Z][a-z]{1,8}$")
    age: int = Field(ge=0, le=150)


async def test_parse_and_log_probabilities_with_a_model_that_has_weights(nats_url: str, tmp_path: Path) -> None:
    engine = TextEngine(tiny_models.llama(tmp_path / "tiny"), TextLimits(warmup=False))
    async with responding(nats_url, tmp_path, engine) as edge:
        parsed = await edge.openai.responses.parse(
            model=CHAT_MODEL, input="Who?", text_format=Person, max_output_tokens=200
        )
        told = await edge.openai.responses.create(
            model=CHAT_MODEL,
            input="Who?",
            max_output_tokens=3,
            include=["message.output_text.logprobs"],
            top_logprobs=2,
        )
    await engine.unload()

    assert isinstance(parsed.output_parsed, Person)
    logprobs = told.output[0].content[0].logprobs
    assert len(logprobs) == 3
    assert {len(each.top_logprobs) for each in logprobs} == {2}


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


async def _is(edge: Stack, response_id: str, status: str) -> bool:
    return (await edge.openai.responses.retrieve(response_id)).status == status


async def _ended(edge: Stack, response_id: str) -> Response:
    async def has_ended() -> bool:
        return not (await _is(edge, response_id, "queued") or await _is(edge, response_id, "in_progress"))

    await until_it(has_ended)
    return await edge.openai.responses.retrieve(response_id)
