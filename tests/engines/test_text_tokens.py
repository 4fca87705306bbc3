from typing import Any

import pytest

from actors.engines.text import TextEngine
from bus.errors import BusError, RefusedError
from bus.messages.chat import ChatRequest, Message, Tool
from bus.messages.tokens import DetokenizeRequest, TokenizeRequest
from tests.support import tiny_models

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = (Message(role="user", content="Hello"),)


def refusal(engine: TextEngine, request: TokenizeRequest) -> BusError:
    with pytest.raises(RefusedError) as refused:
        engine.tokenize(request)
    return refused.value


@pytest.mark.parametrize("asked", [{"prompt": "Permission , granted ."}, {"messages": HELLO}])
async def test_tokens_are_those_that_a_request_is_made_of(text_engine: TextEngine, asked: dict[str, str]) -> None:
    told = text_engine.tokenize(TokenizeRequest(**asked))

    assert list(told.tokens) == text_engine.prepare(ChatRequest(**asked)).prompt
    assert told.context_length == tiny_models.CONTEXT_LENGTH


@pytest.mark.parametrize(
    "asked", [{"tools": (Tool(name="now"),)}, {"enable_thinking": False}, {"reasoning_effort": "none"}]
)
async def test_what_the_template_is_told_is_counted_too(thinking_engine: TextEngine, asked: dict[str, Any]) -> None:
    told = thinking_engine.tokenize(TokenizeRequest(messages=HELLO, **asked))

    assert list(told.tokens) == thinking_engine.prepare(ChatRequest(messages=HELLO, **asked)).prompt
    assert told.tokens != thinking_engine.tokenize(TokenizeRequest(messages=HELLO)).tokens


async def test_text_without_special_tokens_comes_back_as_it_was(text_engine: TextEngine) -> None:
    plain = text_engine.tokenize(TokenizeRequest(prompt="Permission , granted .", add_special_tokens=False))
    whole = text_engine.tokenize(TokenizeRequest(prompt="Permission , granted ."))

    assert text_engine.detokenize(DetokenizeRequest(tokens=plain.tokens)).prompt == "Permission , granted ."
    assert text_engine.detokenize(DetokenizeRequest(tokens=whole.tokens)).prompt.startswith(tiny_models.BEGIN)


async def test_longest_text_that_is_tokenised_at_once_is_as_documented(text_engine: TextEngine) -> None:
    told = text_engine.tokenize(TokenizeRequest(prompt="x " * 131_072))

    assert len(told.tokens) >= 131_072


async def test_text_that_the_model_cannot_read_whole_is_counted(text_engine: TextEngine) -> None:
    told = text_engine.tokenize(TokenizeRequest(prompt="x " * tiny_models.CONTEXT_LENGTH))

    assert len(told.tokens) > tiny_models.CONTEXT_LENGTH


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        (TokenizeRequest(), "invalid_request", "messages"),
        (TokenizeRequest(prompt="a", messages=HELLO), "invalid_request", "messages"),
        (TokenizeRequest(messages=HELLO, add_special_tokens=True), "invalid_request", "add_special_tokens"),
        (TokenizeRequest(prompt="a", enable_thinking=True), "invalid_request", "enable_thinking"),
        (TokenizeRequest(prompt="a" * 262_145), "too_large", "prompt"),
        (TokenizeRequest(messages=(Message(role="user", content="a" * 262_145),)), "too_large", "messages"),
    ],
)
async def test_what_has_no_tokens_is_refused(
    text_engine: TextEngine, request_: TokenizeRequest, code: str, param: str | None
) -> None:
    refused = refusal(text_engine, request_)

    assert (refused.code, refused.failure.param) == (code, param)


async def test_token_that_the_model_does_not_have_is_refused(text_engine: TextEngine) -> None:
    with pytest.raises(RefusedError) as refused:
        text_engine.detokenize(DetokenizeRequest(tokens=(1, tiny_models.VOCAB_SIZE)))

    assert refused.value.failure.param == "tokens"
