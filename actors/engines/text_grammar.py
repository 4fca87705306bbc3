"""Keeps texts to a grammar: compiles what was asked for, and masks the tokens that would leave it.

llguidance does the work (docs/adr/0010). Its matchers hold no mlx arrays, so they may be made on any thread.
"""

import json
from collections import OrderedDict
from typing import Any, assert_never

import mlx.core as mx
import msgspec
import numpy as np
from llguidance import LLMatcher, LLTokenizer, hf
from mlx_lm.tokenizer_utils import TokenizerWrapper

from bus.errors import RefusedError
from bus.messages.chat import Choice, Grammar, JsonObject, JsonSchema, Lark, Regex

_MAX_CACHED = 64


def grammar_tokenizer(tokenizer: TokenizerWrapper, vocab_size: int) -> LLTokenizer | None:
    """Return the tokens as bytes, for a model of `vocab_size` logits. None if its tokenizer does not tell them."""
    inner = tokenizer._tokenizer  # noqa: SLF001 - mlx-lm wraps it and shows its own methods only
    try:
        return hf.from_tokenizer(inner, n_vocab=max(vocab_size, len(inner)), eos_token=sorted(tokenizer.eos_token_ids))
    except ValueError:
        return None


class Grammars:
    """Compiles grammars for one model. Those used last are kept."""

    def __init__(self, tokenizer: LLTokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._compiled: OrderedDict[bytes, LLMatcher] = OrderedDict()

    def compile(self, grammar: Grammar) -> LLMatcher:
        """Return a matcher to copy. Raises `RefusedError` saying what in `grammar` is wrong or not supported."""
        if self._tokenizer is None:
            raise RefusedError("unsupported_parameter", "This model's tokenizer allows no grammars.", param="grammar")
        key = msgspec.json.encode(grammar)
        matcher = self._compiled.pop(key, None) or _compiled(grammar, self._tokenizer)
        self._compiled[key] = matcher
        if len(self._compiled) > _MAX_CACHED:
            self._compiled.popitem(last=False)
        return matcher


class Constraint:
    """A logits processor that lets one text be continued only as its grammar allows.

    Lives on the engine thread. It asks for the last token before the next can be chosen, so that
    a step of a constrained row cannot be prepared while the one before still runs.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher.deep_copy()
        self._seen: int | None = None

    @property
    def error(self) -> str:
        """Why the text can no longer be kept to its grammar; empty while it can."""
        return self._matcher.get_error() if self._matcher.is_error() else ""

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Return `logits` with those of forbidden tokens at minus infinity. `tokens` are prompt and text so far."""
        # What is there at first is the prompt.
        written = [] if self._seen is None else np.array(tokens[self._seen :]).tolist()
        self._seen = tokens.size
        # The model may compute while the mask is made.
        mx.async_eval(logits)  # type: ignore[no-untyped-call]  # mlx does not annotate it
        for token in written:
            # After its end comes only the end-of-turn token, which the matcher takes for an error.
            if not self._matcher.is_stopped():
                self._matcher.consume_token(token)
        allowed = mx.array(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32))
        bits = (allowed[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1
        return mx.where(bits.reshape(1, -1)[:, : logits.shape[-1]] == 1, logits, -mx.inf)


def _compiled(grammar: Grammar, tokenizer: LLTokenizer) -> LLMatcher:
    try:
        source = _source(grammar)
    except ValueError as error:
        raise _refusal(grammar, str(error)) from error
    matcher = LLMatcher(tokenizer, source, log_level=0)
    if matcher.is_error():
        raise _refusal(grammar, matcher.get_error())
    # The first mask builds most of what the later ones need, and shows whether anything can be said at all.
    matcher.compute_bitmask()
    if matcher.is_error():
        raise _refusal(grammar, matcher.get_error())
    return matcher


def _source(grammar: Grammar) -> str:
    match grammar:
        case JsonObject():
            return _json(b'{"type":"object"}')
        case JsonSchema():
            return _json(bytes(grammar.schema))
        case Regex():
            return LLMatcher.grammar_from_regex(grammar.pattern)
        case Choice():
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, grammar.options)))
        case Lark():
            return LLMatcher.grammar_from_lark(grammar.source)
        case _:
            assert_never(grammar)


def _json(schema: bytes) -> str:
    said = msgspec.json.decode(schema, type=dict[str, Any])
    # It would change the options, and with them what is said to be honoured.
    if "x-guidance" in said:
        raise ValueError("x-guidance is not supported")
    # Flexible white space is where a weak model stays for ever.
    return LLMatcher.grammar_from_json_schema(
        said, overrides={"whitespace_flexible": False, "coerce_one_of": False, "lenient": False}
    )


def _refusal(grammar: Grammar, why: str) -> RefusedError:
    field = {JsonSchema: ".schema", Regex: ".pattern", Choice: ".options", Lark: ".source"}.get(type(grammar), "")
    return RefusedError("invalid_request", f"The grammar cannot be honoured: {why}", param=f"grammar{field}")
