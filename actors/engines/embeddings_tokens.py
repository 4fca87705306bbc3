"""Turns the inputs of an embedding request into token ids, or says which of them cannot be honoured.

Touches no mlx. Everything here is a pure function of the folder, so any thread may call it.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from tokenizers import Tokenizer

from actors.engines.contents import inputs_of, prompt_of, without_pictures
from actors.engines.embeddings_folder import EmbeddingFolder
from actors.engines.tokenizer import tokenizer_of
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedRequest

_PROBE = "a"

# Until its ids are taken, a token takes some hundred bytes in the tokenizer.
_TEXTS_AT_ONCE = 64

# A prompt before each of many texts is much more than was said.
_MOST_PROMPT_CHARACTERS = 16 * 2**20


class TokenRow(NamedTuple):
    """One input as the model reads it, special tokens included; the first `skipped` of `ids` are not pooled.

    As numbers of 4 bytes: many rows may wait.
    """

    ids: NDArray[np.int32]
    skipped: int = 0

    def key(self) -> bytes:
        """Return what is equal for rows with equal vectors only."""
        return blake2b(self.ids.tobytes(), digest_size=16, salt=self.skipped.to_bytes(4)).digest()


class EmbedWork(Struct, frozen=True, kw_only=True):
    """The inputs, what tells them apart, and how long their vectors shall be.

    `prompt_tokens` counts all tokens, `truncated` are the numbers of the inputs that were shortened.
    """

    rows: tuple[TokenRow, ...]
    keys: tuple[bytes, ...]
    prompt_tokens: int
    truncated: tuple[int, ...]
    dimensions: int


class InputTokens:
    """The tokenizer of one folder."""

    def __init__(self, folder: EmbeddingFolder) -> None:
        self._folder = folder
        self._tokenizer = tokenizer_of(folder.path)
        self._before, self._after = _special_tokens(self._tokenizer)

    def work(self, request: EmbedRequest, dimensions: int) -> EmbedWork:
        """Return the tokens of every input, in order.

        Token ids are content, as in OpenAI's interface: they get the same special tokens as a text.
        Raises `RefusedError` naming the first input that is empty, holds an id which the model does not know, is too
        long, or is of token ids beside a prompt; with `request.truncate` the end of a long one is left out instead.
        """
        prompt = prompt_of(request, self._folder.prompts, self._folder.default_prompt)
        inputs = without_pictures(inputs_of(request))
        _refuse_first(inputs, prompt)
        skipped = 0
        if prompt and not self._folder.includes_prompt:
            skipped = len(self._before) + len(next(self._encoded("", [prompt])))
        rows: list[TokenRow] = []
        truncated: list[int] = []
        for number, content in enumerate(self._contents(inputs, prompt)):
            ids, is_whole = self._wrapped(number, content, request.truncate)
            if len(ids) <= skipped:
                raise RefusedError("invalid_request", f"input[{number}] has no tokens.", param=f"input[{number}]")
            rows.append(TokenRow(ids, skipped))
            if not is_whole:
                truncated.append(number)
        return EmbedWork(
            rows=tuple(rows),
            keys=tuple(row.key() for row in rows),
            prompt_tokens=sum(len(row.ids) for row in rows),
            truncated=tuple(truncated),
            dimensions=dimensions,
        )

    def _contents(self, inputs: Sequence[str | tuple[int, ...]], prompt: str) -> Iterator[Sequence[int]]:
        encoded = self._encoded(prompt, [item for item in inputs if isinstance(item, str)])
        for item in inputs:
            yield next(encoded) if isinstance(item, str) else item

    def _encoded(self, prompt: str, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        """Yield the tokens of each text with `prompt` before it, without special ones."""
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = [prompt + text for text in texts[start : start + _TEXTS_AT_ONCE]]
            if self._folder.is_lower_case:
                some = [text.lower() for text in some]
            for encoding in self._tokenizer.encode_batch_fast(some, add_special_tokens=False):
                yield encoding.ids

    def _wrapped(self, number: int, content: Sequence[int], truncate: bool) -> tuple[NDArray[np.int32], bool]:
        """Return the tokens with the special ones, and whether all of `content` is among them."""
        vocabulary, limit = self._folder.vocabulary_size, self._folder.max_tokens
        param = f"input[{number}]"
        unknown = [token for token in content if not 0 <= token < vocabulary]
        if unknown:
            # mlx would read beyond the table of embeddings without an error.
            message = f"{param} holds token {unknown[0]}; this model's tokens are 0 to {vocabulary - 1}."
            raise RefusedError("invalid_request", message, param=param)
        excess = len(self._before) + len(content) + len(self._after) - limit
        if excess > 0 and not truncate:
            raise RefusedError(
                "context_length_exceeded",
                f"This model's maximum context length is {limit} tokens. However, {param} has {limit + excess} tokens.",
                param=param,
            )
        tokens = (*self._before, *content[: len(content) - max(excess, 0)], *self._after)
        return np.array(tokens, dtype=np.int32), excess <= 0


def _refuse_first(inputs: Sequence[str | tuple[int, ...]], prompt: str) -> None:
    if len(prompt) * len(inputs) > _MOST_PROMPT_CHARACTERS:
        message = f"A prompt of {len(prompt)} characters before {len(inputs)} inputs is too much; send fewer at once."
        raise RefusedError("too_large", message, param="prompt")
    for number, item in enumerate(inputs):
        param = f"input[{number}]"
        if not item:
            raise RefusedError("invalid_request", f"{param} is empty.", param=param)
        if prompt and not isinstance(item, str):
            message = f'{param} is token ids, and a prompt goes only before a text; say `prompt` "" for none.'
            raise RefusedError("invalid_request", message, param=param)


def _special_tokens(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what the tokenizer puts before and after a text."""
    probe = tokenizer.encode(_PROBE)
    before = probe.special_tokens_mask.index(0)
    after = len(probe.ids) - probe.special_tokens_mask[::-1].index(0)
    return tuple(probe.ids[:before]), tuple(probe.ids[after:])
