"""What `tool_choice` allows, the same for every engine."""

from bus.errors import RefusedError
from bus.messages.chat import ChatRequest, NamedTool, Tool


def callable_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """Return the tools that may be called. Raises `RefusedError` if one has to be and is not there."""
    choice = request.tool_choice
    if choice == "none":
        return ()
    if must_call(request) and not request.tools:
        raise RefusedError("invalid_request", "tool_choice is only allowed with tools.", param="tool_choice")
    if not isinstance(choice, NamedTool):
        return request.tools
    named = tuple(tool for tool in request.tools if tool.name == choice.name)
    if not named:
        message = f"tool_choice names '{choice.name}', which is not among the tools."
        raise RefusedError("invalid_request", message, param="tool_choice")
    return named


def must_call(request: ChatRequest) -> bool:
    """Return whether the answer has to be a call."""
    return request.tool_choice == "required" or isinstance(request.tool_choice, NamedTool)


def is_single(request: ChatRequest) -> bool:
    """Return whether the first call is the last: who names one tool waits for one call."""
    return request.parallel_tool_calls is False or isinstance(request.tool_choice, NamedTool)
