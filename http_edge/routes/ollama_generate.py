"""POST /api/generate: one prompt, as a conversation of one turn or, with `raw`, as a text to continue."""

from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import RefusedError
from bus.messages.chat import ChatRequest, Message
from bus.subjects import CHAT, COMPLETE
from http_edge.generation import refuse_unsupported
from http_edge.logprobs import top_logprobs
from http_edge.ollama import check_context, load, model_name, naming_fields
from http_edge.ollama_lines import Lines, WireCall, answered
from http_edge.ollama_options import KeepAlive, Options, Think, TopLogprobs, grammar, sampling, seconds, thinking
from http_edge.routing import keep_loaded
from http_edge.wire import ModelName, json_response, read_body

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "suffix": ("",),
    "template": ("",),
    "context": ([],),
    "images": ([],),
    "width": (0,),
    "height": (0,),
    "steps": (0,),
    "truncate": (False,),
    "shift": (False,),
}


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends: what is implemented, then `NEUTRAL`. Null means not said."""

    model: ModelName
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    stream: bool | None = None
    format: Raw = Raw()
    options: Options | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    keep_alive: KeepAlive | None = None

    suffix: Any = None
    template: Any = None
    context: Any = None
    images: Any = None
    width: Any = None
    height: Any = None
    steps: Any = None
    truncate: Any = None
    shift: Any = None


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a prompt, as a stream unless told otherwise. Without a prompt, load the model or unload it."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    lines = Lines(model_name(body.model), _tell)
    keep_alive = seconds(body.keep_alive)
    if not body.prompt:
        return json_response(lines.without_answer(await load(request, lines.model, keep_alive)))
    keep_loaded(request, keep_alive)
    message = _chat_request(body, body.prompt)
    await check_context(request, lines.model, body.options)
    # Only one of the bus's fields is a prompt; here both are.
    with naming_fields({"messages": "prompt"}):
        return await answered(request, COMPLETE if body.raw else CHAT, message, lines, stream=body.stream is not False)


def _tell(text: str, reasoning: str, _: tuple[WireCall, ...]) -> dict[str, Any]:
    return {"response": text, "thinking": reasoning} if reasoning else {"response": text}


def _chat_request(body: Body, prompt: str) -> ChatRequest:
    said = {
        "grammar": grammar(body.format),
        "top_logprobs": top_logprobs(body.logprobs, body.top_logprobs),
        **thinking(body.think),
        **sampling(body.options or Options()),
    }
    if not body.raw:
        system = (Message(role="system", content=body.system),) if body.system else ()
        return ChatRequest(messages=(*system, Message(role="user", content=prompt)), **said)
    if body.system:
        raise RefusedError("invalid_request", "'system' cannot be combined with 'raw': true.", param="system")
    return ChatRequest(prompt=prompt, **said)


_body = msgspec.json.Decoder(Body)

ROUTES = [web.post("/api/generate", create)]
