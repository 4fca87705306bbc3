"""instructor, before the model that ships with Fusion."""

from typing import Any, Literal

import instructor
import pytest
from pydantic import BaseModel, Field

from tests.support.stack import CHAT_MODEL, Stack

MESSAGES: Any = [{"role": "user", "content": "Who are you?"}]


class Greeting(BaseModel):
    """A greeting, of which nothing has to be said."""

    text: str = "Hello"


class Pet(BaseModel, extra="forbid"):
    """A pet."""

    kind: Literal["cat", "dog"]
    legs: int = Field(ge=0, le=4)


class Person(BaseModel, extra="forbid"):
    """A person."""

    name: Literal["Ada", "Bob"]
    pets: list[Pet] = Field(min_length=2, max_length=2)


@pytest.mark.parametrize("mode", [instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS])
async def test_answer_is_of_the_model_of_pydantic(toy_edge: Stack, mode: instructor.Mode) -> None:
    client = instructor.from_openai(toy_edge.openai, mode=mode)
    person, completion = await client.chat.completions.create_with_completion(
        model=CHAT_MODEL, messages=MESSAGES, response_model=Person, max_tokens=200, seed=1
    )

    assert isinstance(person, Person)
    assert completion.choices[0].finish_reason in {"stop", "tool_calls"}
    assert completion.usage.completion_tokens > 0


async def test_json_mode_gives_an_object(toy_edge: Stack, ending_bias: dict[str, int]) -> None:
    client = instructor.from_openai(toy_edge.openai, mode=instructor.Mode.JSON)
    answer = await client.chat.completions.create(
        model=CHAT_MODEL, messages=MESSAGES, response_model=Greeting, logit_bias=ending_bias
    )

    assert answer.text == "Hello"
