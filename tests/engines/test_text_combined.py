"""What works alone also works together."""

import json

import jsonschema
import msgspec
import pytest

from actors.engines.text import TextEngine
from bus.messages.chat import ChatRequest, JsonSchema

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["kind", "legs"],
    "additionalProperties": False,
}


async def test_grammar_holds_for_a_prompt_that_was_read_before(text_engine: TextEngine) -> None:
    request = ChatRequest(
        prompt="Describe an animal with its kind and the number of its legs.",
        max_tokens=60,
        temperature=0,
        grammar=JsonSchema(schema=msgspec.Raw(json.dumps(SCHEMA).encode())),
    )

    first, again = await _said(text_engine, request), await _said(text_engine, request)

    jsonschema.validate(json.loads(first[0]), SCHEMA)
    assert again[0] == first[0]
    assert again[1] > first[1] == 0


async def _said(engine: TextEngine, request: ChatRequest) -> tuple[str, int]:
    chunks = [chunk async for chunk in engine.generate(engine.prepare(request))]
    usage = chunks[-1].usage
    assert usage is not None
    return "".join(chunk.text for chunk in chunks), usage.cached_tokens
