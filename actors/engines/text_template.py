"""Renders a conversation through the model's own chat template, or says what it has no form for."""

import json
from typing import Any

from jinja2 import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from actors.engines.messages import text_of
from actors.engines.text_dialect import Calling, Dialect
from actors.engines.tool_choice import callable_tools, is_single
from bus.errors import RefusedError
from bus.messages.chat import ChatRequest, Message, Tool, ToolCall

# Templates are code of the model's makers, and some fail rather than refuse, for instance on an odd schema.
_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Conversations:
    """Knows the chat template of one model."""

    def __init__(self, tokenizer: TokenizerWrapper, dialect: Dialect) -> None:
        self._tokenizer = tokenizer
        self._can_call = dialect.can_call
        template = tokenizer.chat_template
        self._template = template if isinstance(template, str) else ""

    def tokens(self, request: ChatRequest) -> list[int]:
        """Return the prompt for the next turn. Raises `RefusedError`."""
        if not self._tokenizer.has_chat_template:
            raise RefusedError(
                "invalid_request",
                "This model has no chat template, so it continues a prompt but not messages.",
                param="messages",
            )
        calling = self.calling(request)
        turns = [_turn(message, f"messages[{index}]") for index, message in enumerate(request.messages)]
        options = self._thinking(request) | ({"tools": calling.tools} if calling else {})
        try:
            return list(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, **options))
        except _FAILURES as error:
            raise RefusedError(
                "invalid_request", f"The model's chat template refuses: {error}", param="messages"
            ) from error

    def calling(self, request: ChatRequest) -> Calling | None:
        """Return what may be called. With `tool_choice` none the model does not hear of the tools.

        Raises `RefusedError` if the model cannot call any.
        """
        if not callable_tools(request):
            return None
        if not self._can_call:
            raise RefusedError(
                "unsupported_parameter",
                "This model cannot call tools: its chat template has no form for calls that is known here.",
                param="tools",
            )
        tools = [_function(tool) for tool in request.tools]
        return Calling(tools=tools, is_single=is_single(request))

    def _thinking(self, request: ChatRequest) -> dict[str, Any]:
        """Return the template's variables on reasoning, having found that the template reads them.

        A template that knows no effort may know a switch: effort none is off, any other is on.
        """
        said: dict[str, Any] = {}
        effort, thinks, param = request.reasoning_effort, request.enable_thinking, "enable_thinking"
        if effort is not None:
            implied = effort != "none"
            if "reasoning_effort" in self._template:
                said["reasoning_effort"] = effort
            elif thinks is None:
                thinks, param = implied, "reasoning_effort"
            elif thinks != implied:
                message = f"reasoning_effort {effort} contradicts enable_thinking."
                raise RefusedError("invalid_request", message, param="reasoning_effort")
        if thinks is None:
            return said
        if "enable_thinking" in self._template:
            return said | {"enable_thinking": thinks}
        if thinks or self._tokenizer.has_thinking:
            message = f"The chat template of this model does not know '{param}'."
            raise RefusedError("unsupported_parameter", message, param=param)
        return said


def _turn(message: Message, where: str) -> dict[str, Any]:
    # Templates know "system"; "developer" is OpenAI's newer word for it.
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": text_of(message)}
    if message.name:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        _check_role(message, "tool", f"{where}.tool_call_id")
        turn["tool_call_id"] = message.tool_call_id
    if message.reasoning_content:
        _check_role(message, "assistant", f"{where}.reasoning_content")
        turn["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        _check_role(message, "assistant", f"{where}.tool_calls")
        turn["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls)
        ]
    return turn


def _check_role(message: Message, role: str, param: str) -> None:
    if message.role != role:
        raise RefusedError("invalid_request", f"{param} belongs to a message of role {role}.", param=param)


def _call(call: ToolCall, where: str) -> dict[str, Any]:
    """Return the call as templates take it: its arguments are an object there."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise RefusedError("invalid_request", f"{where} has arguments that are no JSON object.", param=where)
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": arguments}}


def _function(tool: Tool) -> dict[str, Any]:
    # Templates read all three without asking whether they are there.
    no_arguments = {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": no_arguments if tool.parameters is None else tool.parameters,
        },
    }
