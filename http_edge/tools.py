"""Tools and calls as OpenAI's chat completions have them."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from bus.errors import RefusedError
from bus.messages.chat import NamedTool, Tool, ToolCall, ToolCallDelta


class BodyFunction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function to call. `strict` promises arguments that follow the schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class BodyTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that is offered."""

    type: Literal["function"]
    function: BodyFunction


class BodyName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The name of a function."""

    name: str


class BodyNamedTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tool that has to be called."""

    type: Literal["function"]
    function: BodyName


class BodyCallFunction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was called. `parsed_arguments` are the same once more, as OpenAI's streaming helper leaves them in."""

    name: str
    arguments: str
    parsed_arguments: Raw = Raw()


class BodyCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call in a message of the assistant. Clients that have put it together from a stream leave its `index` in."""

    id: str
    type: Literal["function"] = "function"
    function: BodyCallFunction
    index: int | None = None


ToolChoice = Literal["none", "auto", "required"] | BodyNamedTool


class WireFunction(Struct, frozen=True, kw_only=True):
    """What is called; in a stream, a piece of it."""

    name: str | UnsetType = UNSET
    arguments: str


class WireCall(Struct, frozen=True, kw_only=True):
    """A call in an answer; in a stream, a piece of it: the clients add up `id` and `name` if they come twice."""

    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: WireFunction


def tools(said: tuple[BodyTool, ...]) -> tuple[Tool, ...]:
    """Return the tools for a `ChatRequest`."""
    return tuple(
        Tool(
            name=tool.function.name,
            description=tool.function.description,
            parameters=tool.function.parameters,
            strict=tool.function.strict,
        )
        for tool in said
    )


def tool_choice(said: ToolChoice | None) -> Literal["none", "auto", "required"] | NamedTool | None:
    """Return the choice for a `ChatRequest`."""
    return NamedTool(name=said.function.name) if isinstance(said, BodyNamedTool) else said


@contextmanager
def naming_tools() -> Generator[None]:
    """Tell that the model refuses something of a tool by the field of the body."""
    try:
        yield
    except RefusedError as error:
        inner = error.failure.param or ""
        tool, dot, field = inner.partition(".")
        if not (tool.startswith("tools[") and dot):
            raise
        param = f"{tool}.function.{field}"
        raise RefusedError(error.code, str(error).replace(inner, param), param=param) from error


def calls(said: tuple[BodyCall, ...]) -> tuple[ToolCall, ...]:
    """Return the calls for a message of a `ChatRequest`."""
    return tuple(ToolCall(id=each.id, name=each.function.name, arguments=each.function.arguments) for each in said)


def wire_calls(made: tuple[ToolCall, ...]) -> tuple[WireCall, ...]:
    """Return the calls of a whole answer."""
    return tuple(
        WireCall(id=each.id, type="function", function=WireFunction(name=each.name, arguments=each.arguments))
        for each in made
    )


def call_deltas(made: tuple[ToolCallDelta, ...]) -> tuple[WireCall, ...]:
    """Return the calls of a piece of an answer."""
    return tuple(
        WireCall(
            index=each.index,
            id=UNSET if each.id is None else each.id,
            type=UNSET if each.id is None else "function",
            function=WireFunction(name=UNSET if each.name is None else each.name, arguments=each.arguments),
        )
        for each in made
    )
