"""Reads a draft model: a small one that proposes what a larger one might write (`text_speculative`)."""

from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from actors.engines.text_folder import read_model
from actors.engines.text_memory import KvCost, kv_cost
from actors.engines.text_prefix import PrefixCache, is_divisible
from bus.errors import RefusedError

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


def load_draft(path: Path, model: Module, tokenizer: TokenizerWrapper, context_length: int) -> Draft:
    """Load the model in the folder `path` to propose for `model`, on the calling thread.

    Raises `RefusedError` if the two do not fit together.
    """
    draft, draft_tokenizer, _ = read_model(path)
    if tokenizer.get_vocab() != draft_tokenizer.get_vocab():
        raise _refusal(f"The draft model {path.name} has another vocabulary than its model.")
    for each, name in ((model, "model"), (draft, "draft model")):
        if not is_divisible(make_prompt_cache(each)):
            raise _refusal(f"The {name} cannot go back to an earlier token, as it has to for drafts.")
    vocab_size = model(mx.array([[0]])).shape[-1]
    return Draft(draft, vocab_size, kv_cost(draft, context_length), PrefixCache(_PREFIX_BYTES))


def _refusal(message: str) -> RefusedError:
    return RefusedError("unsupported_parameter", message, param="draft_model")
