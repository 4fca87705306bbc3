"""A text engine, what it is asked, and what it says."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from bus.calls import whole_calls
from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, FinishReason, Message, Tool, ToolCall

HELLO = Message(role="user", content="Hello")
CITY = {"enum": ["Paris", "Rome", "Köln </tool_call>"]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": CITY, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = Tool(name="get_weather", parameters=SCHEMA)
TIME = Tool(name="get-time")
TOOLS = (WEATHER, TIME)


class Said(msgspec.Struct, frozen=True):
    """A whole answer."""

    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    reason: FinishReason | None


@asynccontextmanager
async def loaded(folder: Path) -> AsyncGenerator[TextEngine]:
    """Load the model in `folder` until the block ends."""
    engine = TextEngine(folder, TextLimits(warmup=False))
    await engine.load()
    yield engine
    await engine.unload()


def asked(**settings: Any) -> ChatRequest:
    """Return a request with tools."""
    return ChatRequest(**({"messages": (HELLO,), "max_tokens": 150, "tools": TOOLS, "seed": 1} | settings))


async def chunks(engine: TextEngine, request: ChatRequest) -> list[ChatChunk]:
    """Return the pieces of the answer."""
    return [chunk async for chunk in engine.generate(engine.prepare(request))]


async def said(engine: TextEngine, request: ChatRequest) -> Said:
    """Return the whole answer."""
    answer = await chunks(engine, request)
    return Said(
        text="".join(chunk.text for chunk in answer),
        reasoning="".join(chunk.reasoning for chunk in answer),
        calls=whole_calls(delta for chunk in answer for delta in chunk.tool_calls),
        reason=answer[-1].finish_reason,
    )


def check(call: ToolCall) -> None:
    """Hold a call of one of TOOLS against its schema."""
    expected = {"get_weather": SCHEMA, "get-time": {"const": {}}}[call.name]
    jsonschema.validate(json.loads(call.arguments), expected)


def refusal(engine: TextEngine, request: ChatRequest) -> tuple[str, str | None]:
    """Return the code with which the request is refused, and the field at fault."""
    with pytest.raises(RefusedError) as refused:
        engine.prepare(request)
    return refused.value.code, refused.value.failure.param
