"""Where the tokens of a text begin, as its embedding model has them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

# Tokenizers take a text of many megabytes without a space many times as long as its pieces.
_PIECE_CHARACTERS = 64 * 1024
# Pieces, or chunks, of which the tokens are in memory at a time.
_AT_ONCE = 64
# BERT takes what it does not know for one token, however long it is, and no spaces for any. No chunk grows by that.
_CHARACTERS_PER_TOKEN = 32


def load(folder: Path) -> Tokenizer:
    """Return the tokenizer of the model in `folder`, which cuts nothing off and fills nothing up."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def counts(texts: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """Return how many tokens each text has, without those that stand around every text."""
    found: list[int] = []
    for begin in range(0, len(texts), _AT_ONCE):
        encodings = tokenizer.encode_batch_fast(texts[begin : begin + _AT_ONCE], add_special_tokens=False)
        found += map(len, encodings)
    return found


def token_starts(text: str, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return the character at which each token begins, in order, and the length of the text.

    What is long for a token counts as several.
    """
    pieces = list(_pieces(text))
    starts = []
    for begin in range(0, len(pieces), _AT_ONCE):
        some = pieces[begin : begin + _AT_ONCE]
        encodings = tokenizer.encode_batch([text[start:end] for start, end in some], add_special_tokens=False)
        for (start, end), encoding in zip(some, encodings, strict=True):
            own = np.fromiter((offset for offset, _ in encoding.offsets), np.int64, len(encoding))
            starts.append(_filled(start + np.maximum.accumulate(own), start, end))
    return np.concatenate([*starts, np.array([len(text)])])


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Yield where pieces of the text begin and end: before a space or the end of a line, if there is one."""
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARACTERS
        if end < len(text):
            space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = space if space > start else end
        yield start, min(end, len(text))
        start = end


def _filled(starts: NDArray[np.int64], begin: int, end: int) -> NDArray[np.int64]:
    """Return the starts with others between those that are too far from each other, or from `begin` and `end`."""
    bounds = np.concatenate([[begin], starts, [end]])
    wide = np.flatnonzero(np.diff(bounds) > _CHARACTERS_PER_TOKEN)
    more = [np.arange(bounds[at] + _CHARACTERS_PER_TOKEN, bounds[at + 1], _CHARACTERS_PER_TOKEN) for at in wide]
    return np.sort(np.concatenate([starts, *more])) if more else starts
