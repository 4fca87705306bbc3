"""What a line of a batch asks at an endpoint, and what it is answered: as the endpoint's own route has it."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from bus.decoding import decode
from bus.errors import RefusedError
from bus.messages.chat import ChatRequest
from bus.messages.embeddings import EmbedRequest
from bus.messages.jobs import Operation
from bus.messages.models import ModelKind
from bus.messages.rerank import RerankRequest
from http_edge.contents import plain
from http_edge.embedding import Embedded, embed_request
from http_edge.generation import refuse_unsupported, wants_usage
from http_edge.results import chat_result, complete_result, embed_result, rerank_result
from http_edge.routes import chat, completions, embeddings, rerank
from http_edge.wire import each_text

T = TypeVar("T", bound=Struct)

# What a body may not say in a batch: it would change nothing there, or an answer is not enough.
_NEUTRAL: dict[str, tuple[object, ...]] = {"stream": (False,), "n": (1,), "ttl": ()}


class Show(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wanted of the answer that the model is not told."""

    with_logprobs: bool = False
    echo: str = ""
    as_base64: bool = False
    top_n: int | None = None


class Asked(Struct, frozen=True, kw_only=True):
    """What a body asks of its model."""

    model: str
    input: ChatRequest | EmbedRequest | RerankRequest
    show: Show


class Answered(Struct, frozen=True, kw_only=True):
    """The result that a job has left at `created`, in seconds since the epoch; `name` becomes part of an id."""

    result: bytes
    show: Show
    model: str
    name: str
    created: int


class Endpoint(Struct, frozen=True, kw_only=True):
    """What an endpoint does in a batch.

    `ask` reads a body, and raises `RefusedError` as the endpoint itself does; `tell` returns the body of the answer.
    """

    operation: Operation
    kind: ModelKind
    ask: Callable[[bytes], Asked]
    tell: Callable[[Answered], object]


def _ask_chat(content: bytes) -> Asked:
    body = _read(_chat, content, chat.NEUTRAL)
    wants_usage(body.stream, body.stream_options)
    show = Show(with_logprobs=bool(body.logprobs))
    return Asked(model=body.model, input=chat.chat_request(body), show=show)


def _tell_chat(answered: Answered) -> object:
    told = chat.told([chat_result(answered.result)], with_logprobs=answered.show.with_logprobs)
    return _head(answered, "chatcmpl", "chat.completion") | told


def _ask_completion(content: bytes) -> Asked:
    body = _read(_completion, content, completions.NEUTRAL)
    wants_usage(body.stream, body.stream_options)
    prompts, messages = completions.chat_requests(body)
    if len(messages) > 1:
        raise _unsupported("A line of a batch has one prompt; give the others lines of their own.", "prompt")
    if body.echo and not isinstance(prompts[0], str):
        raise _unsupported("'echo' of token ids is not supported in a batch; give the prompt as a text.", "echo")
    echo = prompts[0] if body.echo and isinstance(prompts[0], str) else ""
    show = Show(with_logprobs=body.logprobs is not None, echo=echo)
    return Asked(model=body.model, input=messages[0], show=show)


def _tell_completion(answered: Answered) -> object:
    said, show = complete_result(answered.result), answered.show
    choices = completions.told([said], [show.echo], with_logprobs=show.with_logprobs)
    return _head(answered, "cmpl", "text_completion") | {"choices": choices, "usage": said.usage}


def _ask_embedding(content: bytes) -> Asked:
    body = _read(_embedding, content, embeddings.NEUTRAL)
    inputs = each_text(plain(body.input), "input")
    show = Show(as_base64=body.encoding_format == "base64")
    return Asked(model=body.model, input=embed_request(inputs, embeddings.how_of(body)), show=show)


def _tell_embedding(answered: Answered) -> object:
    made = embed_result(answered.result)
    encode = embeddings.encoding("base64" if answered.show.as_base64 else "float")
    data = [Raw(encode(index, vector)) for index, vector in enumerate(made.vectors)]
    return embeddings.told(Embedded(data=data, tokens=made.tokens, model=answered.model, truncated=made.truncated))


def _ask_rerank(content: bytes) -> Asked:
    body = _read(_rerank, content, rerank.NEUTRAL)
    if body.return_documents:
        raise _unsupported("A batch does not return documents; they are in its input.", "return_documents")
    return Asked(model=body.model, input=rerank.rerank_request(body), show=Show(top_n=body.top_n))


def _tell_rerank(answered: Answered) -> object:
    head = rerank.Head(name=answered.name, model=answered.model, top_n=answered.show.top_n)
    return rerank.told(head, rerank_result(answered.result))


def _read(decoder: msgspec.json.Decoder[T], content: bytes, neutral: Mapping[str, tuple[object, ...]]) -> T:
    body = decode(decoder, content)
    refuse_unsupported(body, neutral)
    for name, values in _NEUTRAL.items():
        if getattr(body, name, None) not in (None, *values):
            raise _unsupported(f"'{name}' is not supported in a batch.", name)
    return body


def _unsupported(message: str, param: str) -> RefusedError:
    return RefusedError("unsupported_parameter", message, param=param)


def _head(answered: Answered, kind: str, name: str) -> dict[str, object]:
    return {
        "id": f"{kind}-{answered.name}",
        "object": name,
        "created": answered.created,
        "model": answered.model,
    }


_chat = msgspec.json.Decoder(chat.Body)
_completion = msgspec.json.Decoder(completions.Body)
_rerank = msgspec.json.Decoder(rerank.Body)
_embedding = msgspec.json.Decoder(embeddings.Body)

# By its path, which is also the `url` of its lines.
ENDPOINTS = {
    "/v1/chat/completions": Endpoint(operation="chat", kind="chat", ask=_ask_chat, tell=_tell_chat),
    "/v1/completions": Endpoint(operation="complete", kind="chat", ask=_ask_completion, tell=_tell_completion),
    "/v1/embeddings": Endpoint(operation="embed", kind="embeddings", ask=_ask_embedding, tell=_tell_embedding),
    "/v1/rerank": Endpoint(operation="rerank", kind="rerank", ask=_ask_rerank, tell=_tell_rerank),
}
