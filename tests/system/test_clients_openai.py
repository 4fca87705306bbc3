"""What the official client does beyond sending and reading: pydantic in and out, whole and streamed."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from tests.support.stack import CHAT_MODEL, Stack

QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


class Report(BaseModel):
    """The weather."""

    city: Literal["Paris", "Rome"]
    degrees: int = Field(ge=-40, le=50)


async def test_stream_tells_a_parsed_answer_as_it_grows(toy_edge: Stack) -> None:
    ask: dict[str, Any] = {"model": CHAT_MODEL, "messages": QUESTION, "response_format": Report, "temperature": 0}
    whole = await toy_edge.openai.chat.completions.parse(**ask)
    async with toy_edge.openai.chat.completions.stream(**ask, stream_options={"include_usage": True}) as stream:
        grown = [event.parsed async for event in stream if event.type == "content.delta" and event.parsed]
        final = await stream.get_final_completion()

    assert isinstance(whole.choices[0].message.parsed, Report)
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed
    assert grown[-1] == final.choices[0].message.parsed.model_dump()
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.completion_tokens == whole.usage.completion_tokens
