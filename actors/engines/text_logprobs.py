"""Tells how likely the tokens of a text were, at the pace at which the text itself is told."""

from collections import deque
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from llguidance import LLTokenizer

from bus.messages.chat import TokenLogprob, TopLogprob

# JSON has no minus infinity; OpenAI says this for it.
_LEAST = -9999.0


class Scores(NamedTuple):
    """What one step said of a token: its log probability, and the likeliest ids with theirs, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def read_scores(logprobs: mx.array, token: int, top: int) -> Scores:
    """Read out of the `logprobs` of all tokens. Runs on the engine thread, and only for those who asked."""
    count = min(top, logprobs.size)
    # argpartition wants a place within the array, also where nothing is taken.
    ids = mx.argpartition(-logprobs, kth=max(count - 1, 0))[:count]
    values = mx.concatenate([logprobs[token][None], logprobs[ids]]).astype(mx.float32)
    mx.eval(ids, values)
    chosen, *others = np.array(values).tolist()
    ranked = sorted(zip(np.array(ids).tolist(), others, strict=True), key=lambda pair: -pair[1])
    return Scores(max(chosen, _LEAST), tuple((int(each), value) for each, value in ranked if value > _LEAST))


class LogprobLine:
    """Holds tokens back until some of their text is told, as stop strings may still cut it."""

    def __init__(self, tokens: LLTokenizer) -> None:
        self._tokens = tokens
        self._held: deque[TokenLogprob] = deque()
        self._heard = 0
        self._told = 0

    def hear(self, token: int, scores: Scores, text: str) -> None:
        """Take a token which adds `text` to what is known of the whole, perhaps nothing."""
        top = tuple(TopLogprob(token=self._bytes(each), logprob=value) for each, value in scores.top)
        entry = TokenLogprob(token=self._bytes(token), logprob=scores.logprob, offset=self._heard, top=top)
        self._held.append(entry)
        self._heard += len(text)

    def tell(self, text: str, *, is_all: bool) -> tuple[TokenLogprob, ...]:
        """Return the tokens that begin within what is told up to and with `text`, and have not been told."""
        self._told += len(text)
        told = []
        while self._held and (is_all or self._held[0].offset < self._told):
            told.append(self._held.popleft())
        return tuple(told)

    def _bytes(self, token: int) -> bytes:
        return self._tokens.decode_bytes([token])
