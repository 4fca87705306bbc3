"""What is said about tokens alone: how many a text or a conversation has, and what they read."""

from typing import Annotated

from msgspec import Meta, Struct

from bus.messages.chat import Message, ReasoningEffort, Tool


class TokenizeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Turn a text (`prompt`) or a conversation (`messages`) into tokens: exactly one of them.

    `add_special_tokens` (unsaid: true) is about a text; those of a conversation are in the chat template, which
    `tools`, `reasoning_effort` and `enable_thinking` are for.
    """

    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    add_special_tokens: bool | None = None
    tools: tuple[Tool, ...] = ()
    reasoning_effort: ReasoningEffort | None = None
    enable_thinking: bool | None = None


class Tokens(Struct, frozen=True, kw_only=True):
    """What the model would read. There may be more of them than its `context_length`."""

    tokens: tuple[int, ...]
    context_length: int


class DetokenizeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Turn tokens into text."""

    tokens: Annotated[tuple[int, ...], Meta(max_length=131_072)]


class Detokenized(Struct, frozen=True, kw_only=True):
    """The text of the tokens, special ones among it."""

    prompt: str
