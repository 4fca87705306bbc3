"""How one model marks its reasoning and its calls: mlx-lm's knowledge of it, made safe to use."""

import json
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
from mlx_lm.generate import TextStateMachine, make_text_state_machine
from mlx_lm.tokenizer_utils import TokenizerWrapper
from msgspec import Struct

from bus.ids import new_id
from bus.messages.chat import ToolCall

# So many tokens are more than any template puts after the mark that opens the reasoning, and that mark itself.
_TAIL = 16

# What mlx-lm's fourteen parsers raise, none of which expects the text of a model that errs.
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    msgspec.ValidationError,
)

State = tuple[str, Any, Any, str]

# Whether an answer begins with a thought: not, if the model wants to, or the prompt has opened it.
Thought = Literal["none", "possible", "open"]


class Calling(Struct, frozen=True, kw_only=True):
    """What a request allows: calls of `tools`, as templates and parsers take them; only one with `is_single`."""

    tools: list[dict[str, Any]]
    is_single: bool = False


class Dialect:
    """Reads the marks in the text of one model."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        self.can_call = tokenizer.tool_parser is not None and tokenizer.has_tool_calling
        self.call_start: str = tokenizer.tool_call_start or ""
        self.call_end: str = tokenizer.tool_call_end or ""
        # mlx-lm names the module of each family's parser after it.
        self.call_family = str(tokenizer.tool_parser.__module__).rpartition(".")[2] if self.can_call else ""
        self.think_start: str = tokenizer.think_start or ""
        self.think_end: str = tokenizer.think_end or ""
        # Some models have marks around their content too.
        self.is_plain = not (tokenizer.structural_markers or tokenizer.response_transitions)
        self._with_calls = make_text_state_machine(tokenizer) if self.can_call else None
        self._without_calls = _machine_without_calls(tokenizer)

    def has_token(self, text: str) -> bool:
        """Return whether `text` is one token."""
        return text in self._tokenizer.get_vocab()

    def opening(self, prompt: list[int]) -> str:
        """Return the state in which the answer to `prompt` begins: some templates open the reasoning themselves."""
        if self._tokenizer.response_initial_state:
            return str(self._tokenizer.response_initial_state)
        return "reasoning" if self.thought(prompt) == "open" else "normal"

    def thought(self, prompt: list[int]) -> Thought:
        """Return whether the answer to `prompt` begins with a thought: templates may open it, or close it again."""
        if not self._tokenizer.has_thinking:
            return "none"
        tail = self._tokenizer.decode(prompt[-_TAIL:]).rstrip()
        if tail.endswith(self.think_start):
            return "open"
        return "none" if tail.endswith(self.think_end) else "possible"

    def state(self, opening: str, *, with_calls: bool) -> State | None:
        """Return the state for `TextStateMachine`'s functions, or None where there is nothing to find."""
        machine = self._with_calls if with_calls else self._without_calls
        return None if machine is None else machine.make_state(opening)

    def calls(self, text: str, tools: list[dict[str, Any]]) -> list[ToolCall]:
        """Return the calls written in `text`, with the ids that the model gave them or new ones; none if it erred.

        A new id is nine letters and digits, because Mistral's templates take no other.
        """
        try:
            found = self._tokenizer.tool_parser(text, tools)
            parsed = msgspec.convert(found if isinstance(found, list) else [found], list[_Parsed])
            return [
                ToolCall(id=each.id or new_id()[-9:], name=_sound(each.name), arguments=_arguments(each))
                for each in parsed
            ]
        except _MALFORMED:
            return []


class _Parsed(Struct, kw_only=True):
    """A call as the parsers return it."""

    name: str
    arguments: dict[str, Any] | str | None = None
    id: str | None = None


def _arguments(call: _Parsed) -> str:
    """Return them as JSON. Raises `ValueError` or `TypeError` if JSON cannot express them."""
    said = json.loads(call.arguments) if isinstance(call.arguments, str) else call.arguments or {}
    if not isinstance(said, dict):
        raise TypeError("Arguments are an object.")
    return _sound(json.dumps(said, ensure_ascii=False, allow_nan=False))


def _sound(text: str) -> str:
    """Return `text`. Raises `ValueError` if it is empty or holds half a character, which no message can carry."""
    if not text:
        raise ValueError("The name is empty.")
    text.encode()
    return text


def _machine_without_calls(tokenizer: TokenizerWrapper) -> TextStateMachine | None:
    transitions = {
        state: [(mark, to) for mark, to in edges if to != "tool"]
        for state, edges in tokenizer.response_transitions.items()
    }
    if not (tokenizer.has_thinking or transitions or tokenizer.structural_markers):
        return None
    # All that the function reads, but without tools.
    view = SimpleNamespace(
        has_thinking=tokenizer.has_thinking,
        think_start=tokenizer.think_start,
        think_end=tokenizer.think_end,
        has_tool_calling=False,
        structural_markers=tokenizer.structural_markers,
        response_transitions=transitions,
    )
    return make_text_state_machine(view)
