from types import ModuleType
from typing import Any

import msgspec
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from ollama import _types as ollama
from openai.types import batch_create_params
from openai.types import completion_create_params as completion_params
from openai.types import embedding_create_params as embedding_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as response_params

from bus.decoding import decode
from bus.errors import RefusedError
from http_edge import ollama_options
from http_edge.generation import refuse_unsupported, stops
from http_edge.responses import body as responses
from http_edge.routes import (
    batches,
    chat,
    completions,
    embeddings,
    messages,
    ollama_chat,
    ollama_embed,
    ollama_generate,
    ollama_models,
)
from http_edge.wire import each_text

SAMPLING = {"top_k", "min_p", "repetition_penalty"}
OURS = {"ttl"}
GUIDED = {"guided_json", "guided_regex", "guided_choice", "guided_grammar"}
MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}

# What is added to a body so that the model hears something else, for each parameter that it hears of at all.
TOLD_BY_BOTH: dict[str, Any] = {
    "max_tokens": 7,
    "stop": "x",
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.5,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.5,
    "logit_bias": {"5": 1},
    "seed": 5,
    "response_format": {"type": "json_object"},
    "guided_json": {"type": "object"},
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": 'start: "a"',
}
TOLD: dict[ModuleType, dict[str, Any]] = {
    chat: TOLD_BY_BOTH
    | {
        "messages": [{"role": "system", "content": "hi"}],
        "max_completion_tokens": 7,
        "tools": [TOOL],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "logprobs": False,
        "top_logprobs": 2,
    },
    completions: TOLD_BY_BOTH | {"prompt": [5], "logprobs": 2},
}
# The others change what the edge asks or answers; tests/system has them.
AT_THE_EDGE: dict[ModuleType, set[str]] = {
    chat: {"model", "stream", "stream_options", "n", "ttl"},
    completions: {"model", "stream", "stream_options", "n", "best_of", "echo", "ttl"},
}
BODIES: dict[ModuleType, dict[str, Any]] = {
    chat: {"model": "m", "messages": MESSAGES, "logprobs": True},
    completions: {"model": "m", "prompt": "hi"},
    embeddings: {"model": "m", "input": "hi"},
}


def requests(route: ModuleType, **said: Any) -> Any:
    """Return what a model is asked for the body with what is `said`."""
    body = decode(route._body, msgspec.json.encode(BODIES[route] | said))
    return route.chat_request(body) if route is chat else route.chat_requests(body)


@pytest.mark.parametrize(
    ("route", "params", "ours"),
    [
        (chat, chat_params.CompletionCreateParamsStreaming, SAMPLING | GUIDED | OURS | {"chat_template_kwargs"}),
        (chat, chat_params.CompletionCreateParamsNonStreaming, SAMPLING | GUIDED | OURS | {"chat_template_kwargs"}),
        (
            completions,
            completion_params.CompletionCreateParamsStreaming,
            SAMPLING | GUIDED | OURS | {"response_format"},
        ),
        (
            completions,
            completion_params.CompletionCreateParamsNonStreaming,
            SAMPLING | GUIDED | OURS | {"response_format"},
        ),
        (responses, response_params.ResponseCreateParamsStreaming, OURS),
        (
            embeddings,
            embedding_params.EmbeddingCreateParams,
            OURS | {"truncate", "prompt_name", "prompt", "allow_lossy"},
        ),
        (batches, batch_create_params.BatchCreateParams, set()),
    ],
)
def test_every_parameter_of_the_official_client_is_known_by_name(
    route: ModuleType, params: Any, ours: set[str]
) -> None:
    fields = set(route.Body.__struct_fields__)

    assert fields - ours == params.__required_keys__ | params.__optional_keys__


@pytest.mark.parametrize(
    ("body", "params", "ours"),
    [
        (
            messages.Body,
            message_create_params.MessageCreateParamsStreaming,
            # Older clients send the first three, beta ones the others.
            {"temperature", "top_p", "top_k", "context_management", "mcp_servers"},
        ),
        (
            messages.CountBody,
            message_count_tokens_params.MessageCountTokensParams,
            {"context_management", "mcp_servers"},
        ),
    ],
)
def test_every_parameter_of_anthropics_client_is_known_by_name(body: Any, params: Any, ours: set[str]) -> None:
    headers = {"user_profile_id", "workspace_id"}

    assert set(body.__struct_fields__) - ours == (params.__required_keys__ | params.__optional_keys__) - headers


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        (ollama_chat.Body, ollama.ChatRequest),
        (ollama_chat.BodyMessage, ollama.Message),
        (ollama_generate.Body, ollama.GenerateRequest),
        (ollama_embed.Body, ollama.EmbedRequest),
        (ollama_embed.PromptBody, ollama.EmbeddingsRequest),
        (ollama_models.Body, ollama.ShowRequest),
        (ollama_options.Options, ollama.Options),
    ],
)
def test_every_parameter_of_ollamas_client_is_known_by_name(fields: Any, params: Any) -> None:
    assert set(params.model_fields) <= set(fields.__struct_fields__)


@pytest.mark.parametrize(
    "route",
    [chat, completions, responses, embeddings, messages, ollama_chat, ollama_generate, ollama_embed, ollama_models],
)
def test_ignored_and_neutral_parameters_are_fields_of_the_body(route: ModuleType) -> None:
    fields = set(route.Body.__struct_fields__)

    ignored = set(getattr(route, "IGNORED", ()))
    assert ignored < fields
    assert set(route.NEUTRAL) < fields
    assert not ignored & set(route.NEUTRAL)


@pytest.mark.parametrize("route", [chat, completions])
def test_every_parameter_that_is_neither_ignored_nor_refused_is_honoured(route: ModuleType) -> None:
    fields = set(route.Body.__struct_fields__) - set(route.IGNORED) - set(route.NEUTRAL)
    plain = requests(route)

    assert fields == set(TOLD[route]) | AT_THE_EDGE[route]
    assert [name for name, value in TOLD[route].items() if requests(route, **{name: value}) == plain] == []


@pytest.mark.parametrize("route", [chat, completions])
def test_ignored_parameter_changes_nothing(route: ModuleType) -> None:
    assert requests(route, **{name: {"any": ["thing"]} for name in route.IGNORED}) == requests(route)


@pytest.mark.parametrize(
    ("route", "name"), [(route, name) for route in (chat, completions, embeddings) for name in route.NEUTRAL]
)
def test_parameter_that_is_not_implemented_is_refused_by_name(route: ModuleType, name: str) -> None:
    said = decode(route._body, msgspec.json.encode(BODIES[route] | {name: {"any": "thing"}}))

    with pytest.raises(RefusedError) as refused:
        refuse_unsupported(said, route.NEUTRAL)

    assert (refused.value.code, refused.value.failure.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize("value", [None, 1])
def test_neutral_value_of_an_unsupported_parameter_passes(value: object) -> None:
    refuse_unsupported(msgspec.defstruct("Said", ["n"])(value), {"n": (1,)})


@pytest.mark.parametrize("value", [2, True, 1.0, "1", [], {}])
def test_other_values_of_an_unsupported_parameter_are_refused(value: object) -> None:
    with pytest.raises(RefusedError) as refused:
        refuse_unsupported(msgspec.defstruct("Said", ["n"])(value), {"n": (1,)}, "here.")

    assert refused.value.failure.param == "here.n"


@pytest.mark.parametrize(
    ("texts", "each"),
    [
        ("a", ("a",)),
        (("a", "b"), ("a", "b")),
        ((1, 2), ((1, 2),)),
        (((1, 2), (3,)), ((1, 2), (3,))),
        (("a", (1, 2)), ("a", (1, 2))),
        ((), ()),
    ],
)
def test_texts_of_every_shape_become_single_ones(texts: Any, each: Any) -> None:
    assert each_text(texts, "input") == each


@pytest.mark.parametrize(("stop", "each"), [(None, ()), ("a", ("a",)), ("", ("",)), (("a", "b"), ("a", "b"))])
def test_stop_becomes_a_tuple(stop: str | tuple[str, ...] | None, each: tuple[str, ...]) -> None:
    assert stops(stop) == each
