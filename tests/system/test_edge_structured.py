"""Structured output: a model with weights behind the edge, and the official client before it."""

import json
from typing import Any, Literal

import pytest
from openai import BadRequestError, LengthFinishReasonError
from pydantic import BaseModel, Field

from tests.support.stack import CHAT_MODEL, Stack, chat_body

MESSAGES: Any = [{"role": "user", "content": "Who?"}]


class Friend(BaseModel):
    name: str = Field(pattern="^[A-Z][a-z]{1,8}$")
    kind: Literal["cat", "dog"]


class Person(BaseModel):
    age: int = Field(ge=0, le=150)
    is_here: bool
    best: Friend | None
    friends: list[Friend] = Field(max_length=2)


async def test_parse_of_the_official_client_returns_the_model_of_pydantic(tiny_edge: Stack) -> None:
    for seed in range(3):
        answer = await tiny_edge.openai.chat.completions.parse(
            model=CHAT_MODEL, messages=MESSAGES, response_format=Person, seed=seed, max_tokens=200
        )

        assert isinstance(answer.choices[0].message.parsed, Person)


async def test_parse_of_an_answer_that_was_cut_raises_in_the_client(tiny_edge: Stack) -> None:
    with pytest.raises(LengthFinishReasonError):
        await tiny_edge.openai.chat.completions.parse(
            model=CHAT_MODEL, messages=MESSAGES, response_format=Person, max_tokens=4
        )


async def test_streamed_answer_is_parsed_too(tiny_edge: Stack) -> None:
    async with tiny_edge.openai.chat.completions.stream(
        model=CHAT_MODEL, messages=MESSAGES, response_format=Person, seed=1, max_tokens=200
    ) as events:
        answer = await events.get_final_completion()

    assert isinstance(answer.choices[0].message.parsed, Person)


async def test_schema_that_cannot_be_honoured_is_named_before_the_status_line(tiny_edge: Stack) -> None:
    schema = {"name": "x", "schema": {"type": "array", "uniqueItems": True}}
    for stream in (False, True):
        with pytest.raises(BadRequestError) as refused:
            await tiny_edge.openai.chat.completions.create(
                model=CHAT_MODEL,
                messages=MESSAGES,
                stream=stream,
                response_format={"type": "json_schema", "json_schema": schema},  # type: ignore[arg-type]
            )

        assert refused.value.code == "invalid_request"
        assert refused.value.param == "response_format.json_schema.schema"
        assert "uniqueItems" in refused.value.message


@pytest.mark.parametrize(
    ("guided", "texts"),
    [
        ({"guided_choice": ["yes", "no"]}, {"yes", "no"}),
        ({"guided_regex": "a{3}|b"}, {"aaa", "b"}),
        ({"guided_grammar": 'start: "x" | "y"'}, {"x", "y"}),
        ({"guided_json": {"enum": [1, 2]}}, {"1", "2"}),
        ({"guided_json": '{"enum": [1, 2]}'}, {"1", "2"}),
    ],
)
async def test_extensions_named_as_in_vllm_hold(tiny_edge: Stack, guided: dict[str, Any], texts: set[str]) -> None:
    response = await tiny_edge.http.post("/v1/chat/completions", json=chat_body("?", **guided))

    choice = (await response.json())["choices"][0]
    assert choice["message"]["content"] in texts
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("guided", [{"guided_regex": "("}, {"guided_grammar": "?"}, {"guided_json": [1]}])
async def test_extension_that_cannot_be_honoured_is_named(tiny_edge: Stack, guided: dict[str, Any]) -> None:
    response = await tiny_edge.http.post("/v1/chat/completions", json=chat_body("?", **guided))

    error = json.loads(await response.read())["error"]
    assert (response.status, error["code"], [error["param"]]) == (400, "invalid_request", list(guided))
