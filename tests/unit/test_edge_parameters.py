from types import ModuleType
from typing import Any

import msgspec
import pytest
from openai.types import completion_create_params as completion_params
from openai.types import embedding_create_params as embedding_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as response_params

from bus.errors import RefusedError
from http_edge.generation import refuse_unsupported, stops
from http_edge.responses import body as responses
from http_edge.routes import chat, completions, embeddings
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
        (responses, response_params.ResponseCreateParamsStreaming),
        (embeddings, embedding_params.EmbeddingCreateParams),
    ],
)
def test_every_parameter_of_the_official_client_is_known_by_name(route: ModuleType, params: Any) -> None:
    fields = set(route.Body.__struct_fields__)

    assert fields - OURS == params.__required_keys__ | params.__optional_keys__


@pytest.mark.parametrize("route", [chat, completions, responses, embeddings])
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
