"""Speculative decoding: a small draft model proposes tokens, and the model checks all of them in one step.

Leviathan et al., arXiv:2211.17192, in mlx-lm's form: a proposal counts if it is the token that the model itself
draws in its place, so the text is distributed as without proposals, and a greedy one is the same.
Only a text that is alone is written so: among others, the model's steps are shared already.
"""

from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, make_prompt_cache, trim_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from actors.engines.text_folder import read_model
from actors.engines.text_memory import KvCost, kv_cost
from actors.engines.text_prefix import PrefixCache
from actors.engines.text_sampling import Sampler
from bus.errors import RefusedError

# As in mlx-lm.
_PROPOSALS = 3
# A text whose last rounds had fewer good proposals than rounds is faster without.
_LOOK_BACK = 16

_PREFILL_STEP = 512

# What is kept of earlier texts: a draft model of half a billion weights takes 12 KiB for a token.
_PREFIX_BYTES = 256 * 2**20


class Draft(NamedTuple):
    """The model that proposes. Its logits beyond `vocab_size` are of no token of the other model.

    `prefixes` is what it has read of earlier texts.
    """

    model: Module
    vocab_size: int
    kv_cost: KvCost
    prefixes: PrefixCache


class Alone:
    """One text, written by two models. Lives on the engine thread.

    `caches` hold all `tokens`, prompt and text, but the last; `left` may still be written.
    """

    def __init__(
        self, model: Module, draft: Draft, tokens: list[int], caches: list[Any], left: int, sampler: Sampler
    ) -> None:
        self.tokens = tokens
        self.caches = caches
        self.left = left
        # That of a batch holds the last token too.
        trim_prompt_cache(caches, caches[0].offset - len(tokens) + 1)
        self._model = model
        self._draft = draft
        self._sampler = sampler
        known = draft.prefixes.find(tokens)
        self._draft_caches = known.caches if known else make_prompt_cache(draft.model)
        self._good: deque[int] = deque(maxlen=_LOOK_BACK)

    @property
    def is_worthwhile(self) -> bool:
        """Whether enough of the latest proposals were good."""
        return len(self._good) < _LOOK_BACK or sum(self._good) >= _LOOK_BACK

    def write(self, stop_tokens: Collection[int]) -> list[int]:
        """Return the next tokens, at least one; none comes after one of `stop_tokens`."""
        proposed = self._propose(min(_PROPOSALS, self.left - 1))
        logits = self._model(mx.array([[self.tokens[-1], *proposed]]), cache=self.caches)[0]
        drawn = np.array(self._sampler(logits - mx.logsumexp(logits, axis=-1, keepdims=True))).tolist()
        good = next((at for at, token in enumerate(proposed) if drawn[at] != token or token in stop_tokens), None)
        good = len(proposed) if good is None else good
        # Both models forget the rest. The draft model has not read the last that it proposed.
        trim_prompt_cache(self.caches, len(proposed) - good)
        trim_prompt_cache(self._draft_caches, max(len(proposed) - 1 - good, 0))
        said: list[int] = drawn[: good + 1]
        self.tokens += said
        self.left -= len(said)
        self._good.append(good)
        return said

    def end(self) -> None:
        """Keep what the draft model has read, for the next turn of a conversation."""
        self._draft.prefixes.put(self.tokens[: self._draft_caches[0].offset], self._draft_caches)

    def _propose(self, count: int) -> list[int]:
        """Return what the draft model would write. It has then read all but the last of it."""
        if not count:
            return []
        unread = mx.array(self.tokens[self._draft_caches[0].offset :])
        while unread.size > _PREFILL_STEP:
            self._draft.model(unread[None, :_PREFILL_STEP], cache=self._draft_caches)
            mx.eval([cache.state for cache in self._draft_caches])
            unread = unread[_PREFILL_STEP:]
        proposed = []
        for _ in range(count):
            logits = self._draft.model(unread[None], cache=self._draft_caches)[0, -1:, : self._draft.vocab_size]
            unread = self._sampler(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            mx.async_eval(unread)  # type: ignore[no-untyped-call]  # mlx does not annotate it
            proposed.append(unread)
        return [int(token) for token in np.array(mx.concatenate(proposed))]


def load_draft(path: Path, model: Module, tokenizer: TokenizerWrapper, context_length: int) -> Draft:
    """Load the model in the folder `path` to propose for `model`, on the calling thread.

    Raises `RefusedError` if the two do not fit together.
    """
    draft, draft_tokenizer, _ = read_model(path)
    if tokenizer.get_vocab() != draft_tokenizer.get_vocab():
        raise _refusal(f"The draft model {path.name} has another vocabulary than its model.")
    for each, name in ((model, "model"), (draft, "draft model")):
        if not all(type(cache) is KVCache for cache in make_prompt_cache(each)):
            raise _refusal(f"The {name} cannot go back to an earlier token, as it has to for drafts.")
    vocab_size = model(mx.array([[0]])).shape[-1]
    return Draft(draft, vocab_size, kv_cost(draft, context_length), PrefixCache(_PREFIX_BYTES))


def _refusal(message: str) -> RefusedError:
    return RefusedError("unsupported_parameter", message, param="draft_model")
