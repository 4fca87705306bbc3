"""Tools, and which of them may be called, as Anthropic has them."""

from typing import Any, Literal, assert_never

from msgspec import Raw, Struct

from bus.messages.chat import NamedTool, Tool
from http_edge.generation import refuse_unsupported

# Not implemented: refused, unless they say what happens anyway.
_NEUTRAL_IN_TOOL: dict[str, tuple[object, ...]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "input_examples": ([],),
}


class BodyTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the client runs. Those of the provider have other types, and are refused by it.

    `eager_input_streaming` is about when pieces of a call are sent, not about what they add up to.
    """

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    allowed_callers: Any = None
    defer_loading: Any = None
    input_examples: Any = None
    eager_input_streaming: Raw = Raw()
    cache_control: Raw = Raw()


class AutoChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool = False


class AnyChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="any"):
    """Some tool has to be called."""

    disable_parallel_tool_use: bool = False


class ToolChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool"):
    """The named tool has to be called."""

    name: str
    disable_parallel_tool_use: bool = False


class NoChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="none"):
    """No tool may be called."""


BodyChoice = AutoChoice | AnyChoice | ToolChoice | NoChoice


def tools(said: tuple[BodyTool, ...]) -> tuple[Tool, ...]:
    """Return the tools for a `ChatRequest`. Raises `RefusedError` on what is not supported."""
    for index, tool in enumerate(said):
        refuse_unsupported(tool, _NEUTRAL_IN_TOOL, f"tools[{index}].")
    return tuple(
        Tool(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
        for tool in said
    )


def tool_choice(said: BodyChoice | None) -> Literal["none", "auto", "required"] | NamedTool | None:
    """Return the choice for a `ChatRequest`."""
    match said:
        case None:
            return None
        case AutoChoice():
            return "auto"
        case AnyChoice():
            return "required"
        case ToolChoice(name=name):
            return NamedTool(name=name)
        case NoChoice():
            return "none"
        case _:
            assert_never(said)


def parallel_tool_calls(said: BodyChoice | None) -> bool | None:
    """Return whether there may be more than one call. None means not said."""
    return False if getattr(said, "disable_parallel_tool_use", False) else None
