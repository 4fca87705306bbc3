"""Writes rules of Lark about texts with special tokens in them, which llguidance tells apart from all other text."""

import json

from llguidance import LLTokenizer

_ANYTHING = "/(?s:.*)/"


class Marks:
    """Knows the special tokens of one model."""

    def __init__(self, tokens: LLTokenizer) -> None:
        self._tokens = tokens
        # The tokens that end a turn stand in no text.
        self._special = [
            token
            for token in range(tokens.vocab_size)
            if tokens.is_special_token(token) and token not in tokens.eos_tokens
        ]

    def literal(self, text: str) -> str:
        """Return `text` as it stands in a rule; empty if it is."""
        parts, at = [], 0
        for token in self._tokens.tokenize_str(text, parse_special=True):
            name = self._tokens.decode_str([token])
            if self._tokens.is_special_token(token) and (found := text.find(name, at)) >= 0:
                parts += [_quoted(text[at:found]), f"<[{token}]>"]
                at = found + len(name)
        return " ".join(filter(None, [*parts, _quoted(text[at:])]))

    def without(self, name: str, mark: str) -> list[str]:
        """Return rules by which `name` is any text in which `mark` does not occur."""
        text = f"{name.upper()}_TEXT"
        special = self._any_special(but=mark)
        return [
            # Never two texts in a row: the mark could stand half in one and half in the other.
            f"{name}: {text}? ({special} {text}?)*" if special else f"{name}: {text}?",
            f"{text}: /(?s:.+)/ & ~({_ANYTHING} {json.dumps(mark)} {_ANYTHING})",
        ]

    def until(self, name: str, mark: str) -> list[str]:
        """Return rules by which `name` is any text up to and with the first `mark`, a special token or none at all.

        Raises `ValueError` for another mark.
        """
        literal = self.literal(mark)
        if literal == _quoted(mark):
            special = self._any_special(but=mark)
            text = f"{name.upper()}_TEXT"
            return [
                f"{name}: ({text}? {special})* {name}_end" if special else f"{name}: {name}_end",
                f"{name}_end[lazy]: {_ANYTHING} {literal}",
                f"{text}: /(?s:.+)/ & ~({_ANYTHING} {literal} {_ANYTHING})",
            ]
        if " " in literal:
            raise ValueError(f"the mark {mark} is made of several special tokens")
        return [f"{name}: {name}_before {literal}", *self.without(f"{name}_before", mark)]

    def _any_special(self, but: str) -> str:
        ids = [str(token) for token in self._special if self._tokens.decode_str([token]) != but]
        return f"<[{','.join(ids)}]>" if ids else ""


def _quoted(text: str) -> str:
    return json.dumps(text) if text else ""
