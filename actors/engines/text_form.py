"""Keeps answers to a form: one grammar of a thought, and then calls of tools, or a text, to the end.

In a thought anything may be said, and so it may between calls that only have to be right if they are made.
"""

from typing import NamedTuple

from llguidance import LLMatcher

from actors.engines.text_calls import call_form, is_read_back
from actors.engines.text_dialect import Dialect, Thought
from actors.engines.text_grammar import Grammars, Source, json_source, source
from actors.engines.text_marks import Marks
from actors.engines.tool_choice import callable_tools, is_single, must_call
from bus.errors import RefusedError
from bus.messages.chat import ChatRequest, Tool

_SPACE = r"/[ \t\r\n]{1,8}/"
_NUMBER = "/[0-9]{1,3}/"
# As the templates of all families here write them.
_SEPARATORS = {"item_separator": ", ", "key_separator": ": "}
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


class Form(NamedTuple):
    """What an answer is kept to. `thought` says how it begins; None if anything may be said around the calls."""

    matcher: LLMatcher
    thought: Thought | None


class Forms:
    """Knows how one model marks its thoughts and its calls."""

    def __init__(self, dialect: Dialect, grammars: Grammars) -> None:
        self._dialect = dialect
        self._grammars = grammars
        self._marks = None if grammars.tokens is None else Marks(grammars.tokens)
        self._calls = call_form(dialect)

    def form(self, request: ChatRequest, prompt: list[int]) -> Form | None:
        """Return what the answer to `prompt` is kept to, if `request` says so. Raises `RefusedError`."""
        text = None if request.grammar is None else self._grammars.compile(request.grammar)
        if request.prompt is not None:
            return None if text is None else Form(text, None)
        tools = callable_tools(request)
        is_whole = text is not None or must_call(request)
        if not is_whole and not any(tool.strict for tool in tools):
            return None
        thought = self._dialect.thought(prompt) if is_whole else None
        if text is not None and thought == "none" and not tools:
            return Form(text, thought)
        marks = self._known_marks(request, tools)
        return Form(self._compiled(marks, request, thought), thought)

    def _known_marks(self, request: ChatRequest, tools: tuple[Tool, ...]) -> Marks:
        """Raise `RefusedError` if the answers of this model have a form that is not known here."""
        param = _asked(request)
        if self._marks is None:
            why = "This model's tokenizer allows no grammars."
        elif not self._dialect.is_plain:
            why = "This model puts marks around its content that are not known here."
        elif tools and self._calls is None:
            why = f"Calls in the form {self._dialect.call_family} of this model cannot be kept to a grammar."
        else:
            return self._marks
        raise RefusedError("unsupported_parameter", why, param=param)

    def _compiled(self, marks: Marks, request: ChatRequest, thought: Thought | None) -> LLMatcher:
        tools = callable_tools(request)
        sources = [self._arguments(request, tool, f"arguments{index}") for index, tool in enumerate(tools)]
        answers = ["calls"] if tools else []
        if request.grammar is not None and not must_call(request):
            sources.append(source(request.grammar) | {"name": "text"})
            answers.append("@text")
        try:
            rules = self._call_rules(marks, request, tools) if tools else []
            if thought is None:
                rules += self._free_rules(marks)
            else:
                rules += self._whole_rules(marks, thought, " | ".join(answers))
            return self._grammars.compile_rules("\n".join(rules), sources)
        except ValueError as error:
            message = f"The answer cannot be kept to what is asked: {error}"
            raise RefusedError("invalid_request", message, param=_asked(request)) from error

    def _arguments(self, request: ChatRequest, tool: Tool, name: str) -> Source:
        """Return the grammar of a call's arguments. What is not strict and not supported is left to the model."""
        param = f"tools[{request.tools.index(tool)}]"
        if self._calls is not None and not is_read_back(self._dialect, self._calls, tool.name):
            raise RefusedError("unsupported_parameter", f"This model cannot call {tool.name!r}.", param=f"{param}.name")
        schema = _NO_ARGUMENTS if tool.parameters is None else {"type": "object"} | tool.parameters
        try:
            arguments = json_source(schema, lenient=not tool.strict, **_SEPARATORS) | {"name": name}
            if schema["type"] != "object":
                raise ValueError("its type is not object")  # noqa: TRY301 - like what the compiler finds
            self._grammars.compile_rules(f"start: @{name}", [arguments])
        except ValueError as error:
            message = f"The parameters of {tool.name!r} cannot be enforced: {error}"
            raise RefusedError("invalid_request", message, param=f"{param}.parameters") from error
        return arguments

    def _call_rules(self, marks: Marks, request: ChatRequest, tools: tuple[Tool, ...]) -> list[str]:
        """Return the rules of all `calls`, and of the `inside` of one pair of marks."""
        form = self._calls
        assert form is not None  # noqa: S101 - it was checked
        block = f"{marks.literal(self._dialect.call_start)} inside {marks.literal(self._dialect.call_end)}"
        again = "" if is_single(request) else f"({_SPACE} {block})*" if form.between is None else ""
        more = "" if is_single(request) or form.between is None else f"({marks.literal(form.between)} call)*"
        rules = [
            f"calls: {block} {again}",
            f"inside: {marks.literal(form.begin)} call {more} {marks.literal(form.end)}",
            "call: " + " | ".join(f"call{index}" for index in range(len(tools))),
        ]
        for index, tool in enumerate(tools):
            before, number, name_end = form.named(tool.name).partition("{number}")
            numbered = f"{marks.literal(before)} {_NUMBER if number else ''} {marks.literal(name_end)}"
            rules.append(f"call{index}: {numbered} @arguments{index} {marks.literal(form.after)}")
        return rules

    def _free_rules(self, marks: Marks) -> list[str]:
        """Return the rules of a text in which there may be calls. Without a mark at their end it goes on to the end."""
        start, end = self._dialect.call_start, marks.literal(self._dialect.call_end)
        answer = f"(before inside {end})* rest" if end else "before inside | rest"
        return [f"start: {answer}", *marks.until("before", start), *marks.without("rest", start)]

    def _whole_rules(self, marks: Marks, thought: Thought, answer: str) -> list[str]:
        """Return the rules of an answer after a thought, if there is one."""
        if thought == "none":
            return [f"start: {answer}"]
        begin = f"({marks.literal(self._dialect.think_start)} thought {_SPACE}?)?"
        start = f"thought {_SPACE}?" if thought == "open" else begin
        return [f"start: {start} ({answer})", *marks.until("thought", self._dialect.think_end)]


def _asked(request: ChatRequest) -> str:
    """Return the parameter that asks for a form."""
    if request.grammar is not None:
        return "grammar"
    if must_call(request):
        return "tool_choice"
    strict = next(index for index, tool in enumerate(request.tools) if tool.strict)
    return f"tools[{strict}].strict"
