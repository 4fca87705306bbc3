"""Asking a model, and finding out why nobody answers for it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

from aiohttp import web

from bus.client import Bus
from bus.errors import BusError, LostError, RefusedError
from bus.inbox import Answer
from bus.messages.models import GetModel, ModelCard, ModelKind
from bus.subjects import GET_MODEL, Subject
from http_edge.context import BUS, KEEP_ALIVE, REQUEST_ID
from http_edge.keys import fingerprint

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


@asynccontextmanager
async def asking(
    request: web.Request, subject: Subject[RequestT, ReplyT], model: str, kind: ModelKind, message: RequestT
) -> AsyncGenerator[Answer[ReplyT]]:
    """Ask `model` on `subject` under the request's id, and give the answer when it has begun: its `model` is known.

    Raises as `Bus.stream` does. A model that nobody serves is refused as unknown, or as one that is not of this
    `kind`, when it is.
    """
    bus = request.app[BUS]
    async with (
        _telling_why(bus, model, kind),
        bus.stream(
            subject(model),
            message,
            request_id=request[REQUEST_ID],
            keep_alive=request.get(KEEP_ALIVE),
            key=fingerprint(request),
        ) as answer,
    ):
        await answer.admitted()
        answer.model = answer.model or model
        yield answer


def keep_loaded(request: web.Request, seconds: float | None) -> None:
    """Have the model that `request` asks stay loaded so long afterwards, if it is a heavy one. Negative: for ever."""
    if seconds is not None:
        request[KEEP_ALIVE] = seconds


async def ask_model(
    request: web.Request, subject: Subject[RequestT, ReplyT], model: str, kind: ModelKind, message: RequestT
) -> ReplyT:
    """Return the single reply of `model` on `subject`. Raises as `Bus.ask` does, with the reasons of `asking`.

    It waits as long as for the first piece of an answer: the model may have to be loaded.
    """
    bus = request.app[BUS]
    async with _telling_why(bus, model, kind):
        return await bus.ask(subject(model), message, patience=bus.config.first_timeout)


def not_serving(card: ModelCard, kind: ModelKind) -> BusError:
    """Return why the model does not answer what models of this `kind` are asked."""
    if card.kind != kind:
        return RefusedError(
            "invalid_request", f"The model {card.id!r} is for {card.kind}, not for {kind}.", param="model"
        )
    if card.error:
        return LostError("unavailable", f"The model {card.id!r} is {card.state}: {card.error}", retry_after=1)
    return LostError("unavailable", f"The model {card.id!r} is {card.state}; ask again.", retry_after=1)


@asynccontextmanager
async def _telling_why(bus: Bus, model: str, kind: ModelKind) -> AsyncGenerator[None]:
    """Raise the reason instead, when nobody answers for `model`."""
    try:
        yield
    except LostError as error:
        if error.code != "unavailable":
            raise
        raise await _reason(bus, model, kind, error) from error


async def _reason(bus: Bus, model: str, kind: ModelKind, lost: LostError) -> BusError:
    try:
        card = await bus.ask(GET_MODEL(), GetModel(model=model))
    except RefusedError as error:
        return error
    except LostError:
        return lost
    return not_serving(card, kind)
