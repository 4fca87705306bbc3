"""The responses actor over a real log."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from actors import responses
from bus.client import Bus
from bus.errors import RefusedError
from bus.events import EventLog
from bus.messages.responses import DeleteResponse, GetResponse, PutResponse, ResponseReply
from bus.streams import ensure_streams
from bus.subjects import DELETE_RESPONSE, GET_RESPONSE, PUT_RESPONSE
from tests.support import make
from tests.support.jobs import living
from tests.support.nats import Server, connected, until_it
from tests.support.responses import responses_served


@pytest.fixture
async def bus(server: Server) -> AsyncGenerator[Bus]:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        async with living(responses.child(bus, "responses-1").run(), responses.child(bus, "responses-2").run()):
            await until_it(lambda: responses_served(bus))
            yield bus


async def put(bus: Bus, **fields: Any) -> ResponseReply:
    values = {"response_id": "resp_1", "model": make.MODEL, "status": "completed", "body_blob": "0" * 64}
    return await bus.ask(PUT_RESPONSE(), PutResponse(**(values | fields)))


async def test_stored_response_is_found_until_it_is_deleted(bus: Bus) -> None:
    stored = await put(bus, previous_response_id="resp_0", job_id="job-1")
    found = await bus.ask(GET_RESPONSE(), GetResponse(response_id="resp_1"))
    deleted = await bus.ask(DELETE_RESPONSE(), DeleteResponse(response_id="resp_1"))

    assert stored == found == deleted
    assert (found.previous_response_id, found.job_id, found.body_blob) == ("resp_0", "job-1", "0" * 64)
    for address, request in ((GET_RESPONSE(), GetResponse), (DELETE_RESPONSE(), DeleteResponse)):
        with pytest.raises(RefusedError) as refused:
            await bus.ask(address, request(response_id="resp_1"))
        assert refused.value.code == "response_not_found"
    kinds = [type(item.event).__name__ for item in await EventLog(bus).read_response("resp_1")]
    assert kinds == ["ResponseStored", "ResponseDeleted"]


async def test_id_serves_once_even_after_it_was_deleted(bus: Bus) -> None:
    await put(bus)
    with pytest.raises(RefusedError) as while_stored:
        await put(bus, body_blob="1" * 64)
    await bus.ask(DELETE_RESPONSE(), DeleteResponse(response_id="resp_1"))
    with pytest.raises(RefusedError) as when_deleted:
        await put(bus)

    assert (while_stored.value.code, when_deleted.value.code) == ("conflict", "conflict")


async def test_of_many_that_delete_at_once_one_has_deleted(bus: Bus) -> None:
    await put(bus)

    outcomes = await asyncio.gather(
        *(bus.ask(DELETE_RESPONSE(), DeleteResponse(response_id="resp_1")) for _ in range(8)), return_exceptions=True
    )

    assert sum(isinstance(outcome, ResponseReply) for outcome in outcomes) == 1
    assert {outcome.code for outcome in outcomes if isinstance(outcome, RefusedError)} == {"response_not_found"}
    assert len(await EventLog(bus).read_response("resp_1")) == 2
