from types import ModuleType
from typing import Any

import msgspec
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from ollama import _types as ollama
from openai.types import completion_create_params as completion_params
from openai.types import embedding_create_params as embedding_params
from openai.types.chat import completion_create_params as chat_params

from bus.errors import RefusedError
from http_edge import ollama_options
from http_edge.generation import refuse_unsupported, stops
from http_edge.routes import (
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

OURS = {
    "top_k",
    "min_p",
    "repetition_penalty",
    "truncate",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "chat_template_kwargs",
}


@pytest.mark.parametrize(
    ("route", "params"),
    [
        (chat, chat_params.CompletionCreateParamsStreaming),
        (chat, chat_params.CompletionCreateParamsNonStreaming),
        (completions, completion_params.CompletionCreateParamsStreaming),
        (embeddings, embedding_params.EmbeddingCreateParams),
    ],
)
def test_every_parameter_of_the_official_client_is_known_by_name(route: ModuleType, params: Any) -> None:
    fields = set(route.Body.__struct_fields__)

    assert fields - OURS == params.__required_keys__ | params.__optional_keys__


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
    "route", [chat, completions, embeddings, messages, ollama_chat, ollama_generate, ollama_embed, ollama_models]
)
def test_ignored_and_neutral_parameters_are_fields_of_the_body(route: ModuleType) -> None:
    fields = set(route.Body.__struct_fields__)

    assert set(route.IGNORED) < fields
    assert set(route.NEUTRAL) < fields
    assert not set(route.IGNORED) & set(route.NEUTRAL)


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
