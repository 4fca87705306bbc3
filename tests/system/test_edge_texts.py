"""Plain completions and embeddings, as the official client."""

import asyncio
import base64
import math
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, InternalServerError

from actors.engines.echo import EchoEmbeddings, EchoEngine, EchoTexts
from bus.messages.embeddings import EmbedChunk
from tests.support.nats import until
from tests.support.stack import CHAT_MODEL, EMBED_MODEL, GatedEngine, Stack, chat_actor, embeddings_actor, stack


async def test_completion_continues_a_text(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        answer = await edge.openai.completions.create(model=CHAT_MODEL, prompt="one two three", max_tokens=2)

        assert answer.object == "text_completion"
        assert answer.id.startswith("cmpl-")
        assert [(each.text, each.index, each.finish_reason) for each in answer.choices] == [("one two", 0, "length")]


async def test_several_prompts_are_answered_in_their_order(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        answer = await edge.openai.completions.create(model=CHAT_MODEL, prompt=["a b c", "d", "e f"])
        ids = await edge.openai.completions.create(model=CHAT_MODEL, prompt=[[1, 2], [3]])
        one = await edge.openai.completions.create(model=CHAT_MODEL, prompt=[4, 5])

        assert [(each.index, each.text) for each in answer.choices] == [(0, "a b c"), (1, "d"), (2, "e f")]
        assert answer.usage is not None
        assert answer.usage.total_tokens == 12
        assert [each.text for each in ids.choices] == ["1 2", "3"]
        assert [each.text for each in one.choices] == ["4 5"]


async def test_completion_streams(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        stream = await edge.openai.completions.create(
            model=CHAT_MODEL, prompt="one two", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

        assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "one two"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 4


async def test_echo_puts_the_prompt_before_its_continuations(tiny_edge: Stack) -> None:
    ask: Any = {"model": CHAT_MODEL, "prompt": [[52, 53], [54]], "n": 2, "seed": 1, "max_tokens": 8}
    async with tiny_edge.http.post("/v1/detokenize", json={"model": CHAT_MODEL, "tokens": [52, 53]}) as response:
        first = (await response.json())["prompt"]
    plain = await tiny_edge.openai.completions.create(**ask)
    whole = await tiny_edge.openai.completions.create(**ask, echo=True, best_of=2)
    stream = await tiny_edge.openai.completions.create(**ask, echo=True, stream=True)
    streamed = dict.fromkeys(range(4), "")
    async for chunk in stream:
        streamed[chunk.choices[0].index] += chunk.choices[0].text

    texts = [choice.text for choice in whole.choices]
    second = texts[2].removesuffix(plain.choices[2].text)
    assert len(first) == 2
    assert len(second) == 1
    assert texts == [
        prompt + choice.text for prompt, choice in zip((first, first, second, second), plain.choices, strict=True)
    ]
    assert list(streamed.values()) == texts
    assert whole.usage is not None
    assert plain.usage is not None
    assert whole.usage.total_tokens == plain.usage.total_tokens


async def test_echo_is_the_first_piece_of_a_stream(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        stream = await edge.openai.completions.create(model=CHAT_MODEL, prompt="one two", echo=True, stream=True)
        choices = [chunk.choices[0] async for chunk in stream]

    assert [choice.text for choice in choices] == ["one two", "one", " two", ""]
    assert [choice.finish_reason for choice in choices] == [None, None, None, "stop"]


@pytest.mark.parametrize(
    "format_",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [12]}}}},
        {"guided_regex": "12"},
    ],
)
async def test_completion_is_kept_to_a_grammar(tiny_edge: Stack, format_: dict[str, Any]) -> None:
    answer = await tiny_edge.openai.completions.create(model=CHAT_MODEL, prompt="You", extra_body=format_)
    stream = await tiny_edge.openai.completions.create(model=CHAT_MODEL, prompt="You", extra_body=format_, stream=True)
    pieces = [chunk.choices[0].text async for chunk in stream]

    assert answer.choices[0].text == "".join(pieces) == "12"
    assert answer.choices[0].finish_reason == "stop"


async def test_grammar_of_a_completion_that_cannot_be_honoured_is_named(tiny_edge: Stack) -> None:
    for stream in (False, True):
        with pytest.raises(BadRequestError) as raised:
            await tiny_edge.openai.completions.create(
                model=CHAT_MODEL, prompt="You", extra_body={"guided_regex": "("}, stream=stream
            )

        assert raised.value.param == "guided_regex"


async def test_first_failing_prompt_fails_the_request_and_frees_the_others(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine(crash=True)
    engine.gate.set()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine) as mailbox:
        with pytest.raises(InternalServerError) as raised:
            await edge.openai.completions.create(model=CHAT_MODEL, prompt=["a", "b", "c"])

        assert raised.value.code in {"crashed", "restarting"}
        await until(lambda: mailbox.load.running == 0)


async def test_embeddings_are_the_same_numbers_in_both_formats(nats_url: str, tmp_path: Path) -> None:
    texts = ["first", "second", "third"]
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, EchoEmbeddings()):
        default = await edge.openai.embeddings.create(model=EMBED_MODEL, input=texts)
        floats = await edge.openai.embeddings.create(model=EMBED_MODEL, input=texts, encoding_format="float")

        assert [each.index for each in default.data] == [0, 1, 2]
        assert [each.embedding for each in default.data] == [each.embedding for each in floats.data]
        assert len(default.data[0].embedding) == 8
        assert default.usage.prompt_tokens == 3
        assert default.usage.total_tokens == 3
        assert default.model == EMBED_MODEL


async def test_embeddings_without_a_format_are_numbers(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, EchoEmbeddings()):
        body = {"model": EMBED_MODEL, "input": "x", "user": "me"}
        async with edge.http.post("/v1/embeddings", json=body) as response:
            plain = (await response.json())["data"][0]["embedding"]
        async with edge.http.post("/v1/embeddings", json=body | {"encoding_format": "base64"}) as response:
            coded = (await response.json())["data"][0]["embedding"]

        assert list(struct.unpack("<8f", base64.b64decode(coded))) == plain


async def test_embeddings_of_token_ids_equal_those_of_their_text(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, EchoEmbeddings()):
        ids = await edge.openai.embeddings.create(model=EMBED_MODEL, input=[5, 6])
        lists = await edge.openai.embeddings.create(model=EMBED_MODEL, input=[[5, 6], [7]])
        text = await edge.openai.embeddings.create(model=EMBED_MODEL, input="5 6")

        assert len(ids.data) == 1
        assert len(lists.data) == 2
        assert ids.data[0].embedding == lists.data[0].embedding == text.data[0].embedding


async def test_inputs_over_the_limit_are_shortened_when_asked_for_and_named(nats_url: str, tmp_path: Path) -> None:
    long, filling = "word " * 600, "x" * 100_000
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, EchoEmbeddings()):
        plain = await edge.openai.embeddings.create(model=EMBED_MODEL, input=long, extra_body={"truncate": True})
        whole = await edge.openai.embeddings.create(model=EMBED_MODEL, input="a", extra_body={"truncate": True})
        # In three portions.
        many = await edge.openai.embeddings.create(
            model=EMBED_MODEL, input=[long, filling, "a", filling, long, "a"], extra_body={"truncate": True}
        )

    assert plain.usage.prompt_tokens == 512
    assert (plain.model_extra, whole.model_extra) == ({"truncated": [0]}, {})
    assert many.model_extra == {"truncated": [0, 4]}


async def test_vectors_are_as_long_as_asked_for_and_have_length_one(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, EchoEmbeddings()):
        whole = await edge.openai.embeddings.create(model=EMBED_MODEL, input="a", dimensions=8)
        short = await edge.openai.embeddings.create(model=EMBED_MODEL, input="a", dimensions=4)
        odd = await edge.openai.embeddings.create(
            model=EMBED_MODEL, input="a", dimensions=3, extra_body={"allow_lossy": True}
        )

    full = whole.data[0].embedding
    for answer, length in ((short, 4), (odd, 3)):
        expected = [number / math.hypot(*full[:length]) for number in full[:length]]
        assert answer.data[0].embedding == pytest.approx(expected)


async def test_prompt_named_or_said_is_part_of_each_text(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, EchoEmbeddings()):
        whole, named, said = [
            (await edge.openai.embeddings.create(model=EMBED_MODEL, input=texts, extra_body=how)).data[1].embedding
            for texts, how in (
                (["a", "query: b"], {}),
                (["a", "b"], {"prompt_name": "query"}),
                (["a", "b"], {"prompt": "query: "}),
            )
        ]

    assert whole == named == said


class LongEmbeddings(EchoEmbeddings):
    """Its vectors are very long, and it makes only two."""

    async def embed(self, work: EchoTexts) -> AsyncGenerator[EmbedChunk]:
        for start in range(len(work.texts)):
            if start == 2:
                await asyncio.Event().wait()
            yield EmbedChunk(start=start, vectors=(bytes(300_000),), prompt_tokens=1)


async def test_answer_that_would_be_too_large_is_refused_when_it_begins(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, LongEmbeddings()):
        few = await edge.openai.embeddings.create(model=EMBED_MODEL, input=["a"] * 2)
        with pytest.raises(APIStatusError) as large:
            await edge.openai.embeddings.create(model=EMBED_MODEL, input=["a"] * 700)
        with pytest.raises(BadRequestError) as many:
            await edge.openai.embeddings.create(model=EMBED_MODEL, input=["a"] * 100_001)

    assert len(few.data[1].embedding) == 75_000
    assert (large.value.status_code, large.value.param) == (413, "input")
    assert "limit is 268435456" in str(large.value)
    assert (many.value.param, "length <= 100000" in str(many.value)) == ("input", True)


async def test_more_inputs_than_a_message_holds_are_embedded_in_order(nats_url: str, tmp_path: Path) -> None:
    texts = [f"{number:04}" + "x" * 1000 for number in range(1200)]
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, EchoEmbeddings()):
        many = await edge.openai.embeddings.create(model=EMBED_MODEL, input=texts)
        last = await edge.openai.embeddings.create(model=EMBED_MODEL, input=texts[-1])

        assert [each.index for each in many.data] == list(range(1200))
        assert many.usage.prompt_tokens == 1200
        assert many.data[-1].embedding == last.data[0].embedding


class BusyEmbeddings(EchoEmbeddings):
    """Has others before each request for so long that it says so before the first vector."""

    async def embed(self, work: EchoTexts) -> AsyncGenerator[EmbedChunk]:
        yield EmbedChunk(start=0, vectors=())
        async with aclosing(super().embed(work)) as chunks:
            async for chunk in chunks:
                yield chunk


async def test_request_that_waits_for_others_before_its_first_vector_is_answered(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, BusyEmbeddings()):
        waited = await edge.openai.embeddings.create(model=EMBED_MODEL, input=["a", "b"])

    assert [each.index for each in waited.data] == [0, 1]
