"""The responses actor: records which responses are kept, finds them, and deletes them.

Listens on  fusion.responses.put, fusion.responses.get, fusion.responses.delete
Owns        the events of responses
Never       reads what was asked or answered, or keeps any state of its own: the log is the state
"""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import structlog

from actors.supervisor import Child
from bus.client import Bus
from bus.errors import ConflictError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.responses import DeleteResponse, GetResponse, PutResponse, ResponseReply
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.subjects import DELETE_RESPONSE, GET_RESPONSE, PUT_RESPONSE
from eventlog.events import ResponseDeleted, ResponseStored
from eventlog.response import fold

log = structlog.get_logger()


class Responses:
    """Answers for all responses."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    async def put(self, request: PutResponse, _: Caller) -> AsyncGenerator[ResponseReply]:
        """Record that the response is kept, and answer when that is stored. An id serves once, even if deleted."""
        stored = ResponseStored(
            id=new_id(),
            at=datetime.now(UTC),
            response_id=request.response_id,
            model=request.model,
            status=request.status,
            body_blob=request.body_blob,
            previous_response_id=request.previous_response_id,
            job_id=request.job_id,
        )
        try:
            await self._events.record_next(stored, after=0)
        except ConflictError as error:
            message = f"There was a response '{request.response_id}' before."
            raise RefusedError("conflict", message, param="response_id") from error
        log.info("response.stored", response_id=request.response_id, model=request.model, status=request.status)
        yield _reply(stored)

    async def get(self, request: GetResponse, _: Caller) -> AsyncGenerator[ResponseReply]:
        """Answer from the log itself, so that a response is there as soon as it was stored."""
        stored, _seq = await self._stored(request.response_id)
        yield _reply(stored)

    async def delete(self, request: DeleteResponse, _: Caller) -> AsyncGenerator[ResponseReply]:
        """Record that the response is deleted, and answer with what it was."""
        stored, seq = await self._stored(request.response_id)
        deleted = ResponseDeleted(id=new_id(), at=datetime.now(UTC), response_id=request.response_id)
        try:
            await self._events.record_next(deleted, after=seq)
        except ConflictError as error:
            # Only deleting comes after storing.
            raise _unknown(request.response_id) from error
        log.info("response.deleted", response_id=request.response_id)
        yield _reply(stored)

    async def _stored(self, response_id: str) -> tuple[ResponseStored, int]:
        recorded = await self._events.read_response(response_id)
        stored = fold([item.event for item in recorded])
        if stored is None:
            raise _unknown(response_id)
        return stored, recorded[-1].seq


def _unknown(response_id: str) -> RefusedError:
    return RefusedError("response_not_found", f"There is no response '{response_id}'.", param="response_id")


def _reply(stored: ResponseStored) -> ResponseReply:
    return ResponseReply(
        response_id=stored.response_id,
        model=stored.model,
        status=stored.status,
        stored_at=stored.at,
        body_blob=stored.body_blob,
        previous_response_id=stored.previous_response_id,
        job_id=stored.job_id,
    )


def child(bus: Bus, instance: str) -> Child:
    """Return what the supervisor needs to run this actor."""

    async def run() -> None:
        responses = Responses(EventLog(bus))
        info = ServiceInfo(
            name="fusion-responses", instance=instance, description="Records responses, finds and deletes them"
        )
        endpoints = (
            Endpoint(PUT_RESPONSE(), responses.put),
            Endpoint(GET_RESPONSE(), responses.get),
            Endpoint(DELETE_RESPONSE(), responses.delete),
        )
        async with serving(bus, info, *endpoints):
            await asyncio.Event().wait()

    return Child("responses", run)
