"""The items of OpenAI's Responses API: what is sent, stored, answered and sent back.

One set of structs serves all four, so that an answer can come back as input, and be read from where it was stored.
Fields that may only be null are not implemented; OpenAI's clients leave them in what they were answered.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from bus.decoding import decode
from bus.errors import RefusedError
from bus.ids import new_id
from http_edge.logprobs import ChatToken

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="input_text"):
    """A part of what was said to the model. The breakpoint is a hint for a cache, and changes no answer."""

    text: str
    prompt_cache_breakpoint: Raw | UnsetType = UNSET


class OutputText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="output_text"):
    """A part of what the model said. `parsed` is the same once more, as OpenAI's helper leaves it in.

    Neither that nor annotations and log probabilities are told to the model.
    """

    text: str
    annotations: tuple[Any, ...] = ()
    logprobs: tuple[ChatToken, ...] | None = ()
    parsed: Raw | UnsetType = UNSET


class MessageItem(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="message"):
    """A turn of the conversation. Which `phase` of its work OpenAI's model was in is not told to another."""

    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    status: ItemStatus | None = None
    content: str | tuple[InputText | OutputText, ...]
    phase: Raw | UnsetType = UNSET

    @property
    def text(self) -> str:
        """All of its content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class FunctionCall(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function_call"
):
    """A call that the model made. `parsed_arguments` are the same once more, as OpenAI's helper leaves them in."""

    id: str | None = None
    call_id: str
    name: str
    arguments: str
    status: ItemStatus | None = None
    parsed_arguments: Raw | UnsetType = UNSET
    caller: UnsetType | None = UNSET
    namespace: UnsetType | None = UNSET
    async_: UnsetType | None = UNSET


class FunctionCallOutput(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function_call_output"
):
    """What a call gave."""

    id: str | None = None
    call_id: str
    output: str | tuple[InputText, ...]
    status: ItemStatus | None = None
    name: UnsetType | None = UNSET
    caller: UnsetType | None = UNSET
    namespace: UnsetType | None = UNSET

    @property
    def text(self) -> str:
        """All of its output."""
        return self.output if isinstance(self.output, str) else "".join(part.text for part in self.output)


class ReasoningText(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="reasoning_text"
):
    """A part of what the model thought."""

    text: str


class Reasoning(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="reasoning"):
    """What the model thought. A summary is not told to the model: the content is all of it, unencrypted."""

    id: str | None = None
    summary: tuple[Any, ...] = ()
    content: tuple[ReasoningText, ...] | None = ()
    status: ItemStatus | None = None
    encrypted_content: UnsetType | None = UNSET


Item = MessageItem | FunctionCall | FunctionCallOutput | Reasoning

_PREFIXES = {MessageItem: "msg", FunctionCall: "fc", FunctionCallOutput: "fco", Reasoning: "rs"}


def item_id(kind: type[Item], stem: str) -> str:
    """Return the id of an item of this `kind`, which differs from others by its `stem`."""
    return f"{_PREFIXES[kind]}_{stem}"


def items(said: str | tuple[Raw, ...]) -> tuple[Item, ...]:
    """Return `input` as items that have an id, a status, and their text in parts.

    Raises `RefusedError` naming the item and the field at fault.
    """
    if isinstance(said, str):
        return (_complete(MessageItem(role="user", content=said)),)
    return tuple(_item(each, f"input[{index}]") for index, each in enumerate(said))


def _item(said: Raw, where: str) -> Item:
    try:
        is_easy = decode(_kind, bytes(said)).type is None
        item = decode(_easy, bytes(said)) if is_easy else decode(_any, bytes(said))
    except RefusedError as error:
        param = f"{where}.{error.failure.param}" if error.failure.param else where
        raise RefusedError(error.code, f"{where}: {error}", param=param) from error
    return _complete(item)


def _complete(item: Item) -> Item:
    named = replace(item, id=item.id or item_id(type(item), new_id()), status=item.status or "completed")
    if not isinstance(named, MessageItem) or not isinstance(named.content, str):
        return named
    part = OutputText(text=named.content) if named.role == "assistant" else InputText(text=named.content)
    return replace(named, content=(part,))


class _Kind(Struct, frozen=True):
    type: str | None = None


_kind = msgspec.json.Decoder(_Kind)
# A message may leave its type out.
_easy = msgspec.json.Decoder(MessageItem)
_any: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)
