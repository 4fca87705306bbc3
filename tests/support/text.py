"""A text engine, what it is asked, and what it says."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import mlx_lm
import msgspec
import pytest

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from actors.engines.thread import EngineThread
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


class Reference:
    """mlx-lm's own generation, one text after the other."""

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        self._path = path
        self._adapter = adapter
        self._thread = EngineThread("reference")

    async def load(self) -> None:
        self._thread.start()
        self._model, self._tokenizer = await self._thread.call(
            mlx_lm.load, str(self._path), None, None, self._adapter and str(self._adapter)
        )

    async def greedy(self, prompt: str | tuple[int, ...], max_tokens: int) -> str:
        return await self._thread.call(self._generate, prompt, max_tokens)

    async def close(self) -> None:
        await self._thread.close()

    def _generate(self, prompt: str | tuple[int, ...], max_tokens: int) -> str:
        tokens = prompt if isinstance(prompt, str) else list(prompt)
        responses = mlx_lm.stream_generate(self._model, self._tokenizer, tokens, max_tokens=max_tokens)
        # Not their texts: they lack a space at the beginning.
        said = [response.token for response in responses if response.finish_reason != "stop"]
        return str(self._tokenizer.decode(said, clean_up_tokenization_spaces=False))


def greedy(prompt: str | tuple[int, ...], max_tokens: int = 24, **settings: Any) -> ChatRequest:
    """Return a request for the likeliest continuation."""
    return ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=0, **settings)


async def answer(engine: TextEngine, request: ChatRequest) -> tuple[str, ChatChunk]:
    """Return the whole text and the last chunk, having checked that only the last is final."""
    chunks = [chunk async for chunk in engine.generate(engine.prepare(request))]
    assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(chunk.text for chunk in chunks[:-1])
    return "".join(chunk.text for chunk in chunks), chunks[-1]


async def text(engine: TextEngine, request: ChatRequest) -> str:
    """Return the whole text."""
    return (await answer(engine, request))[0]


async def drain(chunks: AsyncGenerator[ChatChunk]) -> None:
    """Read to the end."""
    async for _ in chunks:
        pass
