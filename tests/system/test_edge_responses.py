"""The Responses API as the official client has it, over real actors and a real log."""

from pathlib import Path
from typing import Any

import pytest
from openai import APIError, BadRequestError, InternalServerError, NotFoundError
from pydantic import BaseModel, Field

from actors.engines.blas import prepare_blas
from actors.engines.echo import EchoEngine
from bus.messages.chat import Message, NamedTool, Tool, ToolCall
from tests.support.models_owner import catalogue
from tests.support.responses import responding
from tests.support.stack import CHAT_MODEL, KeepingEngine, chat_actor, stack

# Before anything here imports mlx.
prepare_blas()

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
        with pytest.raises(BadRequestError, match="stream"):
            await responses.retrieve(answer.id, stream=True)
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
    assert [item.name for item in second.output if item.type == "function_call"] == ["get_weather"]


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
