"""Asking for a single reply."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from bus.client import settled
from bus.errors import LostError, RefusedError
from bus.serve import Caller, Endpoint, serving
from tests.support.nats import COUNT_WORDS, Question, Server, Word, connected, service, stranger_answering


async def count(request: Question, _: Caller) -> AsyncGenerator[Word]:
    yield Word(text=str(len(request.words)))


async def test_question_is_answered(server: Server) -> None:
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("a/b.c"), count)):
        reply = await bus.ask(COUNT_WORDS("a/b.c"), Question(words=("x", "y")))

    assert reply == Word(text="2")


async def test_refusal_comes_with_its_code_and_its_parameter(server: Server) -> None:
    async def refuse(_: Question, __: Caller) -> AsyncGenerator[Word]:
        raise RefusedError("context_length_exceeded", "Tö long\r\nby far.", param="words", retry_after=2.5)
        yield Word(text="")

    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("m"), refuse)):
        with pytest.raises(RefusedError) as refused:
            await bus.ask(COUNT_WORDS("m"), Question())

    assert refused.value.code == "context_length_exceeded"
    assert str(refused.value) == "Tö long\r\nby far."
    assert refused.value.failure.param == "words"
    assert refused.value.failure.retry_after == 2.5


async def test_question_to_nobody_fails_at_once(server: Server) -> None:
    async with connected(server.url) as bus, asyncio.timeout(60):
        with pytest.raises(LostError) as lost:
            await bus.ask(COUNT_WORDS("nobody"), Question())

    assert lost.value.code == "unavailable"


async def test_reply_that_does_not_come_is_a_timeout(server: Server) -> None:
    async def wait(_: Question, __: Caller) -> AsyncGenerator[Word]:
        await asyncio.Event().wait()
        yield Word(text="")

    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("m"), wait)):
        with pytest.raises(LostError) as lost:
            await bus.ask(COUNT_WORDS("m"), Question(), patience=0.1)

    assert lost.value.code == "timeout"


@pytest.mark.parametrize(
    ("payload", "code", "param"),
    [
        (b"not json", "invalid_request", None),
        (b'{"words": ["a", 5]}', "invalid_request", "words[1]"),
        (b'{"times": "x"}', "invalid_request", "times"),
        (b'{"colour": 1}', "unsupported_parameter", "colour"),
        (b"\xff", "invalid_request", None),
        (b"", "invalid_request", None),
        (b"[" * 100_000, "invalid_request", None),
    ],
)
async def test_wrong_body_is_refused_by_the_name_of_its_field(
    server: Server, payload: bytes, code: str, param: str | None
) -> None:
    address = COUNT_WORDS("m")
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(address, count)):
        answer = bus.inbox.open("req-1", address.reply, bus.config, streamed=False)
        await bus._send(address.name, payload, answer, {})
        with pytest.raises(RefusedError) as refused:
            await anext(answer)

    assert refused.value.code == code
    assert refused.value.failure.param == param


async def test_refusal_with_a_very_long_message_still_arrives(server: Server) -> None:
    async def refuse(_: Question, __: Caller) -> AsyncGenerator[Word]:
        raise RefusedError("invalid_request", "é" * 700_000, param="words")
        yield Word(text="")

    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("m"), refuse)):
        with pytest.raises(RefusedError) as refused:
            await bus.ask(COUNT_WORDS("m"), Question(), patience=20)

    assert refused.value.failure.param == "words"
    assert bus.nc.stats["reconnects"] == 0


async def test_too_large_question_is_refused(server: Server) -> None:
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("m"), count)):
        with pytest.raises(RefusedError) as refused:
            await bus.ask(COUNT_WORDS("m"), Question(words=("x" * 2**20,)))

    assert refused.value.code == "too_large"


async def test_question_that_is_too_large_only_with_its_headers_does_not_cost_the_connection(server: Server) -> None:
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("m"), count)):
        empty = len(bus._encoder.encode(Question(words=("",))))
        with pytest.raises(RefusedError) as refused:
            await bus.ask(COUNT_WORDS("m"), Question(words=("x" * (bus.nc.max_payload - empty),)), patience=20)
        reply = await bus.ask(COUNT_WORDS("m"), Question())

    assert refused.value.code == "too_large"
    assert reply == Word(text="3")
    assert bus.nc.stats["reconnects"] == 0


async def test_question_on_a_subject_longer_than_nats_takes_does_not_cost_the_connection(server: Server) -> None:
    async with connected(server.url) as bus:
        with pytest.raises(LostError) as lost:
            await bus.ask(COUNT_WORDS("m" * 5000), Question(), patience=20)
        await settled(bus.nc)

    assert lost.value.code == "unavailable"
    assert bus.nc.stats["reconnects"] == 0


async def test_too_large_reply_is_refused(server: Server) -> None:
    async def shout(_: Question, __: Caller) -> AsyncGenerator[Word]:
        yield Word(text="x" * 2**20)

    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("m"), shout)):
        with pytest.raises(RefusedError) as refused:
            await bus.ask(COUNT_WORDS("m"), Question())

    assert refused.value.code == "too_large"


async def test_answerer_that_yields_nothing_is_told_from_one_that_is_silent(server: Server) -> None:
    async def nothing(_: Question, __: Caller) -> AsyncGenerator[Word]:
        return
        yield Word(text="")

    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("m"), nothing)):
        with pytest.raises(LostError) as lost:
            await bus.ask(COUNT_WORDS("m"), Question(), patience=20)

    assert lost.value.code == "stream_broken"


async def test_reply_that_cannot_be_read_is_a_broken_answer(server: Server) -> None:
    address = COUNT_WORDS("m")
    async with connected(server.url) as bus, stranger_answering(server.url, address.name, b"[1]"):
        with pytest.raises(LostError) as lost:
            await bus.ask(COUNT_WORDS("m"), Question(), patience=20)

    assert lost.value.code == "stream_broken"


async def test_error_of_a_stranger_s_micro_service_is_understood(server: Server) -> None:
    headers = {"Nats-Service-Error": "no luck", "Nats-Service-Error-Code": "500"}
    address = COUNT_WORDS("m")
    async with connected(server.url) as bus, stranger_answering(server.url, address.name, b"", headers):
        with pytest.raises(RefusedError) as refused:
            await bus.ask(COUNT_WORDS("m"), Question(), patience=20)

    assert refused.value.code == "internal_error"
    assert "no luck" in str(refused.value)


async def test_asker_that_gives_up_on_a_single_reply_leaves_nothing_in_the_inbox(server: Server) -> None:
    async def wait(_: Question, __: Caller) -> AsyncGenerator[Word]:
        await asyncio.Event().wait()
        yield Word(text="")

    async with connected(server.url) as bus, serving(bus, service(), Endpoint(COUNT_WORDS("m"), wait)):
        asking = asyncio.create_task(bus.ask(COUNT_WORDS("m"), Question()))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait((asking,))

        assert not bus.inbox._answers
