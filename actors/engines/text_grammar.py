"""Keeps texts to a grammar: compiles what was asked for, and masks the tokens that would leave it.

llguidance does the work (docs/adr/0010). Its matchers hold no mlx arrays, so they may be made on any thread.
"""

import json
from collections import OrderedDict
from threading import Lock
from typing import Any, assert_never

import mlx.core as mx
import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, hf, regex_to_lark
from mlx_lm.tokenizer_utils import TokenizerWrapper

from bus.errors import RefusedError
from bus.messages.chat import Choice, Grammar, JsonObject, JsonSchema, Lark, Regex

# In characters: llguidance takes half a second for the worst of this length.
_LONGEST_SOURCE = 256 * 1024
# In one object: llguidance holds each against each, which takes 0.1 s for these and two minutes for 600.
_MOST_PATTERNS = 128
# What is kept, in characters too: compiled, the worst take a hundred times their length.
_MOST_KEPT = 1024 * 1024

# Text that has to come is not forced token by token, for llguidance would force special tokens that are spelled in it.
_OPTIONS = '%llguidance {"no_forcing": true}\n'
# The state of a parser says nothing to those who asked.
_LIMITS = LLParserLimits(verbose_errors=False)

# A grammar in JSON, with a name if others refer to it.
Source = dict[str, Any]


def grammar_tokenizer(tokenizer: TokenizerWrapper, vocab_size: int) -> LLTokenizer | None:
    """Return the tokens as bytes, for a model of `vocab_size` logits. None if its tokenizer does not tell them."""
    inner = tokenizer._tokenizer  # noqa: SLF001 - mlx-lm wraps it and shows its own methods only
    try:
        return hf.from_tokenizer(inner, n_vocab=max(vocab_size, len(inner)), eos_token=sorted(tokenizer.eos_token_ids))
    except ValueError:
        return None


class Grammars:
    """Compiles grammars for one model. Those used last are kept. May be used on several threads."""

    def __init__(self, tokens: LLTokenizer | None) -> None:
        self.tokens = tokens
        self._lock = Lock()
        # By their source, least used first.
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def compile(self, grammar: Grammar) -> LLMatcher:
        """Return a matcher to copy. Raises `RefusedError` saying what in `grammar` is wrong or not supported."""
        if self.tokens is None:
            raise RefusedError("unsupported_parameter", "This model's tokenizer allows no grammars.", param="grammar")
        try:
            return self.compile_rules("start: @text", [source(grammar) | {"name": "text"}])
        except ValueError as error:
            field = {JsonSchema: ".schema", Regex: ".pattern", Choice: ".options", Lark: ".source"}
            message = f"The grammar cannot be honoured: {error}"
            param = f"grammar{field.get(type(grammar), '')}"
            raise RefusedError("invalid_request", message, param=param) from error

    def compile_rules(self, rules: str, named: list[Source]) -> LLMatcher:
        """Return a matcher for `rules` of Lark, which may refer to the `named` grammars.

        Raises `ValueError` saying what is wrong or not supported.
        """
        key = json.dumps({"grammars": [{"lark_grammar": _OPTIONS + rules}, *named]})
        if len(key) > _LONGEST_SOURCE:
            raise ValueError(f"it has {len(key)} characters; at most {_LONGEST_SOURCE} are compiled")
        with self._lock:
            matcher = self._compiled.pop(key, None)
        matcher = matcher or self._new(key)
        with self._lock:
            self._compiled[key] = matcher
            while sum(map(len, self._compiled)) > _MOST_KEPT:
                self._compiled.popitem(last=False)
        return matcher

    def _new(self, key: str) -> LLMatcher:
        assert self.tokens is not None  # noqa: S101 - else nobody asks
        matcher = LLMatcher(self.tokens, key, log_level=0, limits=_LIMITS)
        # The first mask builds most of what the later ones need, and shows whether anything can be said at all.
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise ValueError(_error(matcher))
        return matcher


class Constraint:
    """A logits processor that lets one text be continued only as its grammar allows.

    Lives on the engine thread. The text begins after `prompt_length` tokens.
    The last token is asked for before the next can be chosen, so that a step of a constrained row cannot be
    prepared while the one before still runs.
    """

    def __init__(self, matcher: LLMatcher, prompt_length: int) -> None:
        self._matcher = matcher.deep_copy()
        self._seen = prompt_length

    @property
    def error(self) -> str:
        """Why the text can no longer be kept to its grammar; empty while it can."""
        return _error(self._matcher)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Return `logits` with those of forbidden tokens at minus infinity. `tokens` are prompt and text so far."""
        written = np.array(tokens[self._seen :]).tolist()
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


def _error(matcher: LLMatcher) -> str:
    return str(matcher.get_error()).removesuffix("<non-verbose/>").strip()


def source(grammar: Grammar) -> Source:
    """Return `grammar` as llguidance takes it. Raises `ValueError` on what it would not refuse by itself."""
    match grammar:
        case JsonObject():
            return json_source({"type": "object"})
        case JsonSchema():
            return json_source(msgspec.json.decode(grammar.schema, type=dict[str, Any]))
        case Regex():
            return {"lark_grammar": f"start: /{regex_to_lark(grammar.pattern, use_ascii='')}/"}
        case Choice():
            return {"lark_grammar": "start: " + " | ".join(map(json.dumps, grammar.options))}
        case Lark():
            return {"lark_grammar": grammar.source}
        case _:
            assert_never(grammar)


def json_source(schema: dict[str, Any], **options: Any) -> Source:
    """Return the grammar of JSON that `schema` allows.

    Raises `ValueError` on options inside the schema, and on what would take minutes to compile.
    """
    if (count := _most_patterns(schema)) > _MOST_PATTERNS:
        raise ValueError(f"an object has {count} patternProperties; at most {_MOST_PATTERNS} are compiled")
    # They would change what is said to be honoured.
    if "x-guidance" in schema:
        raise ValueError("x-guidance is not supported")
    # Flexible white space is where a weak model stays for ever.
    options = {"whitespace_flexible": False, "coerce_one_of": False, "lenient": False} | options
    return {"json_schema": schema | {"x-guidance": options}}


def _most_patterns(schema: Any) -> int:
    """Return how many `patternProperties` the object has that has most of them."""
    if isinstance(schema, dict):
        own = schema.get("patternProperties")
        return max(len(own) if isinstance(own, dict) else 0, *map(_most_patterns, schema.values()), 0)
    return max(map(_most_patterns, schema), default=0) if isinstance(schema, list) else 0
