"""LangChain's chat model for OpenAI, before the model that ships with Fusion."""

import json
from collections.abc import AsyncGenerator
from typing import Any, Literal

import httpx
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from tests.support.stack import CHAT_MODEL, Stack

QUESTION = "What is the weather in Paris?"


class Friend(BaseModel, extra="forbid"):
    """Somebody."""

    name: Literal["Ada", "Bob"]
    age: int = Field(ge=0, le=150)


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return json.dumps({"temperature": 21, "condition": "sunny"} if city == "Paris" else {})


@pytest.fixture
async def langchain(toy_edge: Stack) -> AsyncGenerator[ChatOpenAI]:
    # LangChain would keep its own client beyond the event loop of a test.
    async with httpx.AsyncClient() as http:
        yield ChatOpenAI(
            model=CHAT_MODEL,
            base_url=f"{toy_edge.url}/v1",
            api_key="none",  # type: ignore[arg-type]  # pydantic makes a secret of it
            http_async_client=http,
            max_retries=0,
            temperature=0,
            max_completion_tokens=60,
            stream_usage=True,
        )


async def test_answer_comes_with_its_usage_and_reason(langchain: ChatOpenAI) -> None:
    answer = await langchain.ainvoke([("system", "You are brief."), ("human", "What is the capital of France?")])

    assert "Paris" in answer.text
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == CHAT_MODEL
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] > 10
    assert answer.usage_metadata["output_tokens"] > 2


async def test_stream_adds_up_to_the_answer_and_its_usage(langchain: ChatOpenAI) -> None:
    whole = await langchain.ainvoke(QUESTION)
    pieces = [piece async for piece in langchain.astream(QUESTION)]

    added = _added(pieces)
    assert len(pieces) > 5
    assert added.text == whole.text
    assert added.response_metadata["finish_reason"] == "stop"
    assert added.usage_metadata is not None
    assert whole.usage_metadata is not None
    assert added.usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]


async def test_bound_tool_is_called_and_its_result_told(langchain: ChatOpenAI) -> None:
    bound = langchain.bind_tools([get_weather], tool_choice="auto")
    call = await bound.ainvoke(QUESTION)
    streamed = _added([piece async for piece in bound.astream(QUESTION)])
    result = await get_weather.ainvoke(call.tool_calls[0])
    answer = await bound.ainvoke([HumanMessage(QUESTION), call, result])

    for message in (call, streamed):
        assert [(each["name"], each["args"]) for each in message.tool_calls] == [("get_weather", {"city": "Paris"})]
        assert message.invalid_tool_calls == []
        assert message.response_metadata["finish_reason"] == "tool_calls"
    assert isinstance(result, ToolMessage)
    assert answer.text == "It is sunny and 21 degrees in Paris."


# Of langchain-openai's own making: it dumps the answer that the openai client has parsed.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
async def test_structured_output_is_of_its_type_whole_and_streamed(langchain: ChatOpenAI) -> None:
    structured = langchain.with_structured_output(Friend, method="json_schema")
    whole = await structured.ainvoke("Who is your friend?")
    pieces = [piece async for piece in structured.astream("Who is your friend?")]

    assert isinstance(whole, Friend)
    assert pieces[-1] == whole


async def test_structured_output_by_a_call_is_of_its_type(langchain: ChatOpenAI) -> None:
    structured = langchain.with_structured_output(Friend, method="function_calling")

    assert isinstance(await structured.ainvoke("Who is your friend?"), Friend)


@pytest.mark.parametrize("choice", ["required", "get_weather"])
async def test_tool_that_has_to_be_called_is_called(langchain: ChatOpenAI, choice: str) -> None:
    answer = await langchain.bind_tools([get_weather], tool_choice=choice).ainvoke("Hello")

    assert answer.tool_calls
    assert {call["name"] for call in answer.tool_calls} == {"get_weather"}
    assert all("city" in call["args"] for call in answer.tool_calls)


async def test_json_mode_gives_an_object(langchain: ChatOpenAI, ending_bias: dict[str, int]) -> None:
    structured = langchain.with_structured_output(method="json_mode", logit_bias=ending_bias)
    answer = await structured.ainvoke("Who is your friend? Answer in JSON.")

    assert answer == {}


def _added(pieces: list[Any]) -> AIMessageChunk:
    first, *rest = pieces
    for piece in rest:
        first += piece
    assert isinstance(first, AIMessageChunk)
    return first
