"""The form in which a family of models writes calls, where their arguments are JSON as it stands."""

import json

from msgspec import Struct

from actors.engines.text_dialect import Dialect


class CallForm(Struct, frozen=True, kw_only=True):
    """What stands between the marks around calls: `begin`, `before` and `after` the arguments of each call, `end`.

    Several calls are `between` each other's, or each in marks of its own where that is None.
    In `before` stand {name} and, where calls are numbered, {number}.
    """

    begin: str = ""
    before: str
    after: str
    between: str | None = None
    end: str = ""

    def named(self, name: str) -> str:
        """Return `before` with the name in it, as JSON strings have it."""
        return self.before.replace("{name}", json.dumps(name, ensure_ascii=False)[1:-1])


_JSON = '{"name": "{name}", "arguments": '
_FORMS = {
    "json_tools": CallForm(begin="\n", before=_JSON, after="}", end="\n"),
    "kimi_k2": CallForm(
        before="<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>",
        after="<|tool_call_end|>",
        between="",
    ),
    "mistral": CallForm(begin="[", before=_JSON, after="}", between=", ", end="]"),
}
# Since its eleventh tokenizer.
_MISTRAL_WITH_HEADERS = CallForm(before="{name}[ARGS]", after="", between="[TOOL_CALLS]")


def call_form(dialect: Dialect) -> CallForm | None:
    """Return the form of a model's calls. None for a family that has another for arguments than JSON."""
    if dialect.call_family == "mistral" and dialect.has_token("[ARGS]"):
        return _MISTRAL_WITH_HEADERS
    return _FORMS.get(dialect.call_family)


def is_read_back(dialect: Dialect, form: CallForm, name: str) -> bool:
    """Return whether a call of `name` is read as one: some families take no dots in names, for instance."""
    text = f"{form.begin}{form.named(name).replace('{number}', '0')}{{}}{form.after}{form.end}"
    return [(call.name, call.arguments) for call in dialect.calls(text, [])] == [(name, "{}")]
