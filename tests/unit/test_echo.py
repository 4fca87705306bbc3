import struct
from typing import Literal

import pytest

from actors.engines.echo import EchoEmbeddings, EchoEngine
from bus.calls import whole_calls
from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, Message, NamedTool, TextPart, Tool, Usage
from bus.messages.embeddings import EmbedChunk, EmbedRequest


async def answer(request: ChatRequest) -> list[ChatChunk]:
    engine = EchoEngine()
    await engine.load()
    return [chunk async for chunk in engine.generate(engine.prepare(request))]


async def embed(request: EmbedRequest) -> list[EmbedChunk]:
    engine = EchoEmbeddings()
    await engine.load()
    return [chunk async for chunk in engine.embed(engine.prepare(request))]


def text(chunks: list[ChatChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_last_message_is_said_word_by_word() -> None:
    messages = (Message(role="system", content="be brief"), Message(role="user", content="hello my  world\n"))

    chunks = await answer(ChatRequest(messages=messages))

    assert [chunk.text for chunk in chunks] == ["hello", " my", "  world", "\n", ""]
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].usage == Usage(prompt_tokens=6, completion_tokens=4)


async def test_content_in_parts_is_joined() -> None:
    content = (TextPart(text="one "), TextPart(text="two"))

    chunks = await answer(ChatRequest(messages=(Message(role="user", content=content),)))

    assert text(chunks) == "one two"


async def test_prompt_is_said_again() -> None:
    assert text(await answer(ChatRequest(prompt="a b"))) == "a b"
    assert text(await answer(ChatRequest(prompt=(1, 2)))) == "1 2"


async def test_max_tokens_cuts_the_answer() -> None:
    chunks = await answer(ChatRequest(prompt="a b c", max_tokens=2))

    assert text(chunks) == "a b"
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage == Usage(prompt_tokens=3, completion_tokens=2)


async def test_answer_of_exactly_max_tokens_is_not_cut() -> None:
    chunks = await answer(ChatRequest(prompt="a b", max_tokens=2))

    assert chunks[-1].finish_reason == "stop"


async def test_stop_string_across_words_ends_the_answer_before_it() -> None:
    chunks = await answer(ChatRequest(prompt="one two three", stop=("o th",)))

    assert text(chunks) == "one tw"
    assert chunks[-1].finish_reason == "stop"


async def test_request_with_both_or_neither_of_messages_and_prompt_is_refused() -> None:
    both = ChatRequest(messages=(Message(role="user", content="a"),), prompt="a")
    for request in (both, ChatRequest()):
        with pytest.raises(RefusedError) as refusal:
            EchoEngine().prepare(request)

        assert refusal.value.code == "invalid_request"


async def test_request_longer_than_the_context_is_refused() -> None:
    with pytest.raises(RefusedError) as refusal:
        EchoEngine(context_length=3).prepare(ChatRequest(prompt="a b", max_tokens=2))

    assert refusal.value.code == "context_length_exceeded"


async def test_unloading_ends_an_unfinished_answer() -> None:
    engine = EchoEngine()
    await engine.load()
    chunks = engine.generate(engine.prepare(ChatRequest(prompt="a b c")))
    await anext(chunks)

    await engine.unload()

    with pytest.raises(RefusedError) as refusal:
        await anext(chunks)
    assert refusal.value.code == "restarting"


async def test_vectors_come_in_order_and_depend_on_the_text_alone() -> None:
    chunks = await embed(EmbedRequest(input=("one", "two words", "one")))

    vectors = [chunk.vectors[0] for chunk in chunks]
    assert [chunk.start for chunk in chunks] == [0, 1, 2]
    assert vectors[0] == vectors[2] != vectors[1]
    assert [chunk.prompt_tokens for chunk in chunks] == [None, None, 4]


async def test_vector_has_length_one() -> None:
    (chunk,) = await embed(EmbedRequest(input=("text",)))

    numbers = struct.unpack("<8f", chunk.vectors[0])
    assert sum(number**2 for number in numbers) == pytest.approx(1)


async def test_input_that_is_too_long_is_refused_unless_truncated() -> None:
    engine = EchoEmbeddings(context_length=2)

    with pytest.raises(RefusedError) as refusal:
        engine.prepare(EmbedRequest(input=("a b c",)))

    assert refusal.value.code == "context_length_exceeded"
    assert engine.prepare(EmbedRequest(input=("a b c",), truncate=True)).texts == ("a b",)


async def test_empty_input_is_refused() -> None:
    with pytest.raises(RefusedError) as refusal:
        EchoEmbeddings().prepare(EmbedRequest(input=("fine", "")))

    assert refusal.value.code == "invalid_request"


WEATHER, TIME = Tool(name="get_weather"), Tool(name="get_time")


@pytest.mark.parametrize(
    ("said", "choice", "called"),
    [
        ("hello", "required", [("get_weather", "{}")]),
        ("hello", NamedTool(name="get_time"), [("get_time", "{}")]),
        ('call: get_time {"a": 1}\nhello', "required", [("get_time", '{"a": 1}')]),
        ('call: get_time {"a": 1}\n', NamedTool(name="get_weather"), [("get_weather", "{}")]),
        ("call: get_time {}\ncall: get_time {}\n", NamedTool(name="get_time"), [("get_time", "{}")]),
    ],
)
async def test_answer_that_must_be_a_call_is_one(
    said: str, choice: Literal["required"] | NamedTool, called: list[tuple[str, str]]
) -> None:
    messages = (Message(role="user", content=said),)

    chunks = await answer(ChatRequest(messages=messages, tools=(WEATHER, TIME), tool_choice=choice))

    calls = whole_calls(delta for chunk in chunks for delta in chunk.tool_calls)
    assert [(call.name, call.arguments) for call in calls] == called
    assert (text(chunks), chunks[-1].finish_reason) == ("", "tool_calls")
