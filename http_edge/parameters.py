"""The parameters that chat and completions have in common."""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from http_edge.choices import MAX_CHOICES
from http_edge.generation import StreamOptions
from http_edge.grammar import ResponseFormat
from http_edge.wire import ModelName


class Parameters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both bodies say. Null means not said; ranges that are not here are checked by the model."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: str | tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    response_format: ResponseFormat | None = None
    guided_json: Raw = Raw()
    guided_regex: str | None = None
    guided_choice: tuple[str, ...] | None = None
    guided_grammar: str | None = None
