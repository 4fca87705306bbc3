"""What Ollama's routes share: errors, the names of models and of fields, and requests that say nothing."""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Literal

import msgspec
from aiohttp import web

from bus.errors import RefusedError
from bus.messages.models import GetModel, LoadModel, UnloadModel
from bus.subjects import GET_MODEL, LOAD_MODEL, UNLOAD_MODEL
from http_edge.context import BUS
from http_edge.errors import ErrorBody, Format
from http_edge.loading import done
from http_edge.ollama_options import Options
from http_edge.routing import not_serving

# Ollama's clients add it to a name without a tag, which names of the catalogue do not have.
_TAG = ":latest"

# Where Ollama has other names than the bus. A name stands for what is within it, too.
_NAMES = {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    **{
        name: f"options.{name}"
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "seed",
            "stop",
            "presence_penalty",
            "frequency_penalty",
        )
    },
    "grammar": "format",
    "reasoning_effort": "think",
    "enable_thinking": "think",
}


def _error(error: ErrorBody, *_: object) -> bytes:
    """Return Ollama's error: only a message, so that it has to name the field."""
    is_named = error.param is None or error.param in error.message
    return msgspec.json.encode({"error": error.message if is_named else f"{error.message} (in '{error.param}')"})


OLLAMA = Format(error=_error, content_type="application/x-ndjson", frame=b"%b\n", comment=None, done=b"")


def model_name(said: str) -> str:
    """Return the catalogue's name of the model that a client calls `said`."""
    return said.removesuffix(_TAG) or said


async def load(request: web.Request, model: str, keep_alive: float | None) -> Literal["load", "unload"]:
    """Do what a request is for that says nothing: load the chat model, or with a `keep_alive` of 0 unload it.

    Return Ollama's word for it. Raises as `done` does.
    """
    if keep_alive == 0:
        await done(request, UNLOAD_MODEL(), UnloadModel(model=model))
        return "unload"
    card = await request.app[BUS].ask(GET_MODEL(), GetModel(model=model))
    if card.kind != "chat":
        raise not_serving(card, "chat")
    # For ever is negative here, and 0 there.
    ttl = None if keep_alive is None else max(keep_alive, 0.0)
    await done(request, LOAD_MODEL(), LoadModel(model=model, ttl=ttl))
    return "load"


async def check_context(request: web.Request, model: str, options: Options | None) -> None:
    """Raise `RefusedError` if `num_ctx` asks for more than the model has. The catalogue is asked only then."""
    if options is None or options.num_ctx is None:
        return
    card = await request.app[BUS].ask(GET_MODEL(), GetModel(model=model))
    if card.context_length is not None and options.num_ctx > card.context_length:
        raise RefusedError(
            "invalid_request",
            f"'options.num_ctx' is {options.num_ctx}, but this model's context is {card.context_length} tokens.",
            param="options.num_ctx",
        )


@contextmanager
def naming_fields(more: Mapping[str, str] | None = None) -> Generator[None]:
    """Tell what the model refuses by the names that Ollama has for the fields, and by those that `more` has."""
    names = _NAMES | dict(more or {})
    try:
        yield
    except RefusedError as error:
        ours = re.match(r"\w+", error.failure.param or "")
        if not ours or ours[0] not in names:
            raise
        message, param = (text.replace(ours[0], names[ours[0]]) for text in (str(error), error.failure.param or ""))
        raise RefusedError(error.code, message, param=param) from error
