"""Tells how likely the tokens of a text were, at the pace at which the text itself is told."""

from collections import deque
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from llguidance import LLTokenizer
from msgspec import structs

from actors.engines.text_parts import Track
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
    """Holds tokens back until some of their text is told, as marks may make it no content, and stop strings cut it.

    Tokens that begin in reasoning, in calls or in marks are not told.
    """

    def __init__(self, tokens: LLTokenizer) -> None:
        self._tokens = tokens
        # Their offsets are in what was heard, until they are told.
        self._held: deque[TokenLogprob] = deque()
        self._heard = 0
        self._told = 0
        self._track = Track(0, 0, 0)
        self._followed = 0
        # Where in the content stand those characters heard that are content.
        self._places: dict[int, int] = {}

    def hear(self, token: int, scores: Scores, text: str) -> None:
        """Take a token which adds `text` to what is known of the whole, perhaps nothing."""
        top = tuple(TopLogprob(token=self._bytes(each), logprob=value) for each, value in scores.top)
        entry = TokenLogprob(token=self._bytes(token), logprob=scores.logprob, offset=self._heard, top=top)
        self._held.append(entry)
        self._heard += len(text)

    def follow(self, track: Track, characters: int = 1) -> None:
        """Learn how far the splitter came with one more character; at the end, with none."""
        begin = self._followed - self._track.undecided
        self._followed += characters
        # What becomes content stands first, and marks behind it.
        for place in range(self._track.content, track.content):
            self._places[begin + place - self._track.content] = place
        self._track = track

    def tell(self, text: str, *, is_all: bool) -> tuple[TokenLogprob, ...]:
        """Return the tokens that begin within what is told up to and with `text`, and have not been told."""
        self._told += len(text)
        decided = self._followed - self._track.undecided
        told = []
        while self._held and (is_all or self._held[0].offset < decided):
            place = self._places.get(self._held[0].offset)
            offset = None if place is None else place - self._track.dropped
            if offset is not None and offset >= self._told and not is_all:
                break
            entry = self._held.popleft()
            if offset is not None and 0 <= offset < self._told:
                told.append(structs.replace(entry, offset=offset))
        return tuple(told)

    def _bytes(self, token: int) -> bytes:
        return self._tokens.decode_bytes([token])
