"""POST /v1/tokenize and /v1/detokenize, as vLLM has them: counting tokens without generating any."""

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bus.messages.chat import Message
from bus.messages.tokens import DetokenizeRequest, TokenizeRequest
from bus.subjects import DETOKENIZE, TOKENIZE
from http_edge.generation import refuse_unsupported
from http_edge.routing import ask_model
from http_edge.wire import ModelName, json_response, read_body

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "return_token_strs": (False,),
    "tools": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
}


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to become tokens: what is implemented, then `NEUTRAL`. Null means not said."""

    model: ModelName
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    add_special_tokens: bool | None = None

    add_generation_prompt: Any = None
    continue_final_message: Any = None
    return_token_strs: Any = None
    tools: Any = None
    chat_template: Any = None
    chat_template_kwargs: Any = None


class TokensBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to become text."""

    model: ModelName
    tokens: tuple[Annotated[int, Meta(ge=0)], ...]


class Counted(Struct, frozen=True, kw_only=True):
    """vLLM's answer. `max_model_len` is the context length."""

    count: int
    max_model_len: int
    tokens: tuple[int, ...]


async def tokenize(request: web.Request) -> web.StreamResponse:
    """Answer with the tokens of a text or a conversation."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    message = TokenizeRequest(
        prompt=body.prompt, messages=body.messages or (), add_special_tokens=body.add_special_tokens
    )
    said = await ask_model(request, TOKENIZE, body.model, "chat", message)
    return json_response(Counted(count=len(said.tokens), max_model_len=said.context_length, tokens=said.tokens))


async def detokenize(request: web.Request) -> web.StreamResponse:
    """Answer with the text of tokens."""
    body = await read_body(request, _tokens_body)
    said = await ask_model(request, DETOKENIZE, body.model, "chat", DetokenizeRequest(tokens=body.tokens))
    return json_response(said)


_body = msgspec.json.Decoder(Body)
_tokens_body = msgspec.json.Decoder(TokensBody)

ROUTES = [web.post("/v1/tokenize", tokenize), web.post("/v1/detokenize", detokenize)]
