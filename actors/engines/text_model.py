"""Reads a language model from a folder: weights, tokenizer and what they say of themselves."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import mlx.core as mx
import msgspec
from llguidance import LLTokenizer
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper
from msgspec import Struct

from actors.engines.blas import prepare_blas
from actors.engines.engine import ModelFacts
from actors.engines.text_draft import Draft, load_draft
from actors.engines.text_folder import read_model
from actors.engines.text_grammar import grammar_tokenizer
from actors.engines.text_memory import KvCost, default_kv_bytes, kv_cost
from actors.engines.text_quantised_kv import Quantisation, quantise_kv
from actors.model_files import read_json
from bus.errors import RefusedError

# For the few architectures that name no limit in their configuration.
_UNSAID_CONTEXT_LENGTH = 8192


class TextLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a text engine takes on. `None` leaves it to the engine, or to the model.

    `draft` is the folder of a small model that speeds a single text up, `adapter` that of a LoRA adapter.
    The code that comes with a model is run only with `trust_code`.
    With `kv_bits` the keys and values of what was read are quantised.
    With a `prefix_folder`, what a prefix cache keeps is there while the model is not loaded.
    While long prompts are read, news of it comes every `progress_interval` seconds.
    """

    max_batch: int = 32
    prefill_batch: int = 8
    prefill_step: int | None = None
    context_length: int | None = None
    default_max_tokens: int | None = None
    prefix_bytes: int | None = None
    prefix_folder: Path | None = None
    kv_bytes: int | None = None
    kv_bits: Literal[4, 8] | None = None
    draft: Path | None = None
    adapter: Path | None = None
    trust_code: bool = False
    warmup: bool = True
    progress_interval: float = 0.5


class Defaults(Struct, frozen=True, kw_only=True):
    """How the makers of a model want it sampled: its generation_config.json."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


class TextModel(NamedTuple):
    """A loaded model. `vocab_size` is the number of logits, which may exceed the tokenizer's.

    `token_bytes` is None if the tokenizer does not tell what its tokens stand for.
    All rows together, and what is kept of earlier ones, may take `kv_bytes`. `quantisation` is that of what they read.
    """

    model: Module
    tokenizer: TokenizerWrapper
    facts: ModelFacts
    vocab_size: int
    defaults: Defaults
    token_bytes: LLTokenizer | None
    kv_cost: KvCost
    kv_bytes: int
    quantisation: Quantisation | None
    draft: Draft | None


def load_model(path: Path, limits: TextLimits) -> TextModel:
    """Load the model in the folder `path`, on the calling thread.

    Raises `RefusedError` if there is none, if mlx-lm cannot batch its texts, if its keys and values cannot be quantised
    though they should be, or if its draft model does not fit it; and `ModelFilesError` as `read_model` does.
    """
    model, tokenizer, config = read_model(path, limits.adapter, trust_code=limits.trust_code)
    if not all(hasattr(cache, "merge") for cache in make_prompt_cache(model)):
        message = f"The model {path.name} cannot be served: mlx-lm cannot batch texts of a {config['model_type']}."
        raise RefusedError("invalid_request", message, param="model")
    quantisation = quantise_kv(model, limits.kv_bits) if limits.kv_bits else None
    facts = _facts(dict(tree_flatten(model.parameters())), config, limits)  # type: ignore[no-untyped-call]  # as above
    # mlx is lazy: this asks for a shape and computes nothing.
    vocab_size = model(mx.array([[0]])).shape[-1]
    return TextModel(
        model=model,
        tokenizer=tokenizer,
        facts=facts,
        vocab_size=vocab_size,
        defaults=_defaults(path),
        token_bytes=grammar_tokenizer(tokenizer, vocab_size),
        kv_cost=kv_cost(model, facts.context_length),
        kv_bytes=default_kv_bytes() if limits.kv_bytes is None else limits.kv_bytes,
        quantisation=quantisation,
        draft=load_draft(limits.draft, model, tokenizer, facts.context_length) if limits.draft else None,
    )


def _defaults(path: Path) -> Defaults:
    return msgspec.convert(read_json(path / "generation_config.json"), Defaults)


def _facts(weights: dict[str, mx.array], config: dict[str, Any], limits: TextLimits) -> ModelFacts:
    text_config = config.get("text_config") or {}
    said = config.get("max_position_embeddings") or text_config.get("max_position_embeddings")
    context_length = int(said or limits.context_length or _UNSAID_CONTEXT_LENGTH)
    quantization = config.get("quantization") or {}
    floating = [each.dtype for each in weights.values() if mx.issubdtype(each.dtype, mx.floating)]
    widest = max(floating, key=lambda dtype: dtype.size)
    dtype = str(widest).removeprefix("mlx.core.")
    return ModelFacts(
        family=str(config["model_type"]),
        context_length=min(context_length, limits.context_length or context_length),
        size_bytes=sum(each.nbytes for each in weights.values()),
        dtype=f"{quantization['bits']}-bit {dtype}" if "bits" in quantization else dtype,
        blas=prepare_blas(),
    )
