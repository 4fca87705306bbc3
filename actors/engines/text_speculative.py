"""Speculative decoding: a small draft model proposes tokens, and the model checks all of them in one step.

Leviathan et al., arXiv:2211.17192, in mlx-lm's form: a proposal counts if it is the token that the model itself
draws in its place, so the text is distributed as without proposals, and a greedy one is the same.
Only a text that is alone is written so: among others, the model's steps are shared already.
"""

from collections import deque
from collections.abc import Collection

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

from actors.engines.text_delivery import Token
from actors.engines.text_draft import Draft
from actors.engines.text_prefix import Prefix
from actors.engines.text_row import Row
from actors.engines.text_sampling import sampler
from bus.messages.chat import FinishReason

# As in mlx-lm.
_PROPOSALS = 3
# A text whose last rounds had fewer good proposals than rounds is faster without.
_LOOK_BACK = 16

_PREFILL_STEP = 512


class Alone:
    """A row of which at least one token is written, taken out of its generator to be written by two models.

    Lives on the engine thread. Its `_caches` hold all its tokens but the last.
    """

    def __init__(
        self, row: Row, generator: BatchGenerator, model: Module, draft: Draft, stop_tokens: Collection[int]
    ) -> None:
        self.row = row
        self._stream = generator.stream
        self._model = model
        self._draft = draft
        self._stop_tokens = stop_tokens
        self._sampler = sampler(row.work.sampling)
        ((self._caches, _),) = generator.remove([row.uid], return_prompt_caches=True).values()
        trim_prompt_cache(self._caches, 1)
        known = draft.prefixes.find(row.tokens)
        self._draft_caches = known.caches if known else make_prompt_cache(draft.model)
        self._good: deque[int] = deque(maxlen=_LOOK_BACK)

    @property
    def is_worthwhile(self) -> bool:
        """Whether enough of the latest proposals were good."""
        return len(self._good) < _LOOK_BACK or sum(self._good) >= _LOOK_BACK

    def write(self) -> list[Token]:
        """Write at least one token, and return those that were written."""
        row = self.row
        left = row.work.max_tokens - len(row.written)
        with mx.stream(self._stream):
            tokens = self._round(min(_PROPOSALS, left - 1))
        row.written += tokens
        ended: FinishReason | None = "length" if len(tokens) == left else None
        if tokens[-1] in self._stop_tokens:
            ended = "stop"
        return [*(Token(row, token, None) for token in tokens[:-1]), Token(row, tokens[-1], ended)]

    def end(self) -> Prefix:
        """Return what is known of the row without its last token, so that it can go on in a generator.

        What the draft model has read is kept for the next turn of a conversation.
        """
        tokens = self.row.tokens
        self._draft.prefixes.put(tokens[: self._draft_caches[0].offset], self._draft_caches)
        return Prefix(len(tokens) - 1, self._caches)

    def _round(self, count: int) -> list[int]:
        """Return the next tokens, as many as were proposed well and one more. None comes after a stop token."""
        tokens = self.row.tokens
        proposed = self._propose(tokens, count)
        logits = self._model(mx.array([[tokens[-1], *proposed]]), cache=self._caches)[0]
        drawn: list[int] = np.array(self._sampler(_normalised(logits))).tolist()
        wrong = (at for at, token in enumerate(proposed) if drawn[at] != token or token in self._stop_tokens)
        good = next(wrong, count)
        # Both models forget the rest. The draft model has not read the last that it proposed.
        trim_prompt_cache(self._caches, count - good)
        trim_prompt_cache(self._draft_caches, max(count - 1 - good, 0))
        self._good.append(good)
        return drawn[: good + 1]

    def _propose(self, tokens: list[int], count: int) -> list[int]:
        """Return what the draft model would write after `tokens`. It has then read all but the last of it."""
        if not count:
            return []
        unread = mx.array(tokens[self._draft_caches[0].offset :])
        while unread.size > _PREFILL_STEP:
            self._draft.model(unread[None, :_PREFILL_STEP], cache=self._draft_caches)
            mx.eval([cache.state for cache in self._draft_caches])
            unread = unread[_PREFILL_STEP:]
        proposed = []
        for _ in range(count):
            logits = self._draft.model(unread[None], cache=self._draft_caches)[0, -1:, : self._draft.vocab_size]
            unread = self._sampler(_normalised(logits))
            mx.async_eval(unread)  # type: ignore[no-untyped-call]  # mlx does not annotate it
            proposed.append(unread)
        return [int(token) for token in np.array(mx.concatenate(proposed))]


def _normalised(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
