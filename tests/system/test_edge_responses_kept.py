"""Responses that outlive their requests: continued after a restart, and made in the background."""

from pathlib import Path

import pytest
from openai import BadRequestError, NotFoundError
from openai.types.responses import Response

from actors.engines.echo import EchoEngine
from tests.support.nats import server_running, until, until_it
from tests.support.responses import responding
from tests.support.stack import CHAT_MODEL, GatedEngine, KeepingEngine, Stack


async def test_conversation_goes_on_after_everything_was_restarted(tmp_path: Path) -> None:
    engine = KeepingEngine()
    async with server_running(tmp_path) as server:
        async with responding(server.url, tmp_path, engine) as edge:
            first = await edge.openai.responses.create(model=CHAT_MODEL, input="one", instructions="be brief")
            second = await edge.openai.responses.create(
                model=CHAT_MODEL, input="two", previous_response_id=first.id, background=True
            )
            await _ended(edge, second.id)
        await server.kill()
        await server.start()
        async with responding(server.url, tmp_path, engine) as edge:
            third = await edge.openai.responses.create(
                model=CHAT_MODEL, input="three", previous_response_id=second.id, instructions="be long"
            )
            await edge.openai.responses.delete(first.id)
            with pytest.raises(BadRequestError) as refused:
                await edge.openai.responses.create(model=CHAT_MODEL, input="four", previous_response_id=third.id)

    assert third.previous_response_id == second.id
    assert [(message.role, message.content) for message in engine.asked[-1].messages] == [
        ("system", "be long"),
        ("user", "one"),
        ("assistant", "one"),
        ("user", "two"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    assert refused.value.code == "previous_response_not_found"
    assert first.id in str(refused.value)


async def test_response_in_the_background_is_polled_until_it_is_there(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        queued = await edge.openai.responses.create(model=CHAT_MODEL, input="hi", background=True)
        await until_it(lambda: _is(edge, queued.id, "in_progress"))
        with pytest.raises(BadRequestError, match="in_progress"):
            await edge.openai.responses.create(model=CHAT_MODEL, input="on", previous_response_id=queued.id)
        engine.gate.set()
        done = await _ended(edge, queued.id)
        again = await edge.openai.responses.retrieve(queued.id)
        items = await edge.openai.responses.input_items.list(queued.id)

    assert (queued.status, queued.output, queued.background) == ("queued", [], True)
    assert (done.status, done.output_text) == ("completed", "one two")
    assert done.completed_at is not None
    assert done.usage is not None
    assert done.usage.output_tokens == 2
    assert again == done
    assert items.data[0].content[0].text == "hi"


async def test_response_in_the_background_is_cancelled(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        responses = edge.openai.responses
        running = await responses.create(model=CHAT_MODEL, input="hi", background=True)
        await until_it(lambda: _is(edge, running.id, "in_progress"))
        waiting = await responses.create(model=CHAT_MODEL, input="hi", background=True)

        assert (await responses.cancel(waiting.id)).status == "cancelled"
        await responses.cancel(running.id)

        ended = await _ended(edge, running.id)
        assert (ended.status, ended.output) == ("cancelled", [])
        assert (await responses.cancel(running.id)).status == "cancelled"
        await until(engine.closed.is_set)


async def test_deleting_a_response_in_the_background_ends_it(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        running = await edge.openai.responses.create(model=CHAT_MODEL, input="hi", background=True)
        await until_it(lambda: _is(edge, running.id, "in_progress"))

        await edge.openai.responses.delete(running.id)

        await until(engine.closed.is_set)
        assert not engine.gate.is_set()
        with pytest.raises(NotFoundError):
            await edge.openai.responses.retrieve(running.id)


async def test_response_in_the_background_that_the_model_refuses_has_failed(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine(context_length=2)) as edge:
        queued = await edge.openai.responses.create(model=CHAT_MODEL, input="hello big world", background=True)
        ended = await _ended(edge, queued.id)

    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == "invalid_prompt"
    assert "context length" in ended.error.message


async def test_only_a_response_in_the_background_can_be_cancelled(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        answer = await edge.openai.responses.create(model=CHAT_MODEL, input="hi")

        with pytest.raises(BadRequestError, match="background"):
            await edge.openai.responses.cancel(answer.id)


async def _is(edge: Stack, response_id: str, status: str) -> bool:
    return (await edge.openai.responses.retrieve(response_id)).status == status


async def _ended(edge: Stack, response_id: str) -> Response:
    async def has_ended() -> bool:
        return not (await _is(edge, response_id, "queued") or await _is(edge, response_id, "in_progress"))

    await until_it(has_ended)
    return await edge.openai.responses.retrieve(response_id)
