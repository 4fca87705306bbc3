"""Reads the folder of a reranker; refuses what would give other scores.

Touches no mlx. Weights and tokens are read elsewhere.
"""

from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from actors.engines.folder import config_in, family_of, folder_refusal, needed, packing_in
from actors.model_config import ModelConfig
from actors.model_files import read_json

# Cross-encoders read query and document at once and have one label. The others are asked in words, and say yes or no.
_CROSS_ENCODERS: Final = frozenset(("bert", "modernbert", "xlm_roberta"))
_GENERATIVE: Final = frozenset(("qwen3",))

# A score is always from 0 to 1, whether a folder asks for the logit or its sigmoid; the order is the same.
_ACTIVATIONS: Final = frozenset(("", "Identity", "Sigmoid"))

# So much do the makers of Qwen3-Reranker give it, of the 40960 tokens that its positions allow.
_LONGEST_PROMPT: Final = 8192


class RerankFolder(Struct, frozen=True, kw_only=True):
    """What the files say about scoring a document.

    `max_tokens` counts query, document and special tokens. `reads_types` is whether the tokens of the document are
    marked as another type than those of the query.
    """

    path: Path
    family: str
    max_tokens: int
    vocabulary_size: int
    pad_id: int
    reads_types: bool
    quantisation: dict[str, Any] | None

    @property
    def is_generative(self) -> bool:
        """Whether it answers in words."""
        return self.family in _GENERATIVE


def read_rerank_folder(path: Path) -> RerankFolder:
    """Return what the model folder `path` declares.

    Raises `RefusedError` if it is no model folder, or has a family, label, activation or layer that cannot be
    honoured, and `ModelFilesError` for a file that cannot be read.
    """
    said = config_in(path)
    config, family = ModelConfig(said), family_of(said)
    if family not in _CROSS_ENCODERS | _GENERATIVE:
        families = ", ".join(sorted(_CROSS_ENCODERS | _GENERATIVE))
        raise folder_refusal(path, f"is of family {family or 'none'}, not one of {families}")
    _check_head(path, family, config)
    _check_activations(path, config)
    _check_layers(path, family, config)
    tokenizer = ModelConfig(read_json(path / "tokenizer_config.json"))
    inputs = tokenizer.texts("model_input_names")
    return RerankFolder(
        path=path,
        family=family,
        max_tokens=_max_tokens(path, family, config, tokenizer),
        vocabulary_size=needed(path, config, "vocab_size"),
        pad_id=config.number("pad_token_id") or 0,
        reads_types=family == "bert" and (not inputs or "token_type_ids" in inputs),
        quantisation=packing_in(path, said),
    )


def labels_of(config: ModelConfig) -> int:
    """Return how many labels a classifier tells apart; 0 if it does not say."""
    return config.number("num_labels") or len(config.part("id2label").names)


def _check_head(path: Path, family: str, config: ModelConfig) -> None:
    head = next(iter(config.texts("architectures")), "none")
    wanted = "ForSequenceClassification" if family in _CROSS_ENCODERS else "ForCausalLM"
    if not head.endswith(wanted):
        raise folder_refusal(path, f"has the architecture {head}; of family {family} it is …{wanted} that can rerank")
    if family in _CROSS_ENCODERS and labels_of(config) != 1:
        raise folder_refusal(path, f"tells {labels_of(config)} labels apart; a reranker has one")


def _check_activations(path: Path, config: ModelConfig) -> None:
    for name in ("hidden_act", "hidden_activation", "classifier_activation"):
        wanted = {"", "silu"} if config.text("model_type") in _GENERATIVE else {"", "gelu"}
        if config.text(name) not in wanted:
            raise folder_refusal(path, f"has the {name} {config.text(name)}, which is not supported")
    said = config.part("sentence_transformers").text("activation_fn")
    last = said or config.text("sbert_ce_default_activation_function")
    if last.rpartition(".")[2] not in _ACTIVATIONS:
        raise folder_refusal(path, f"turns its logits into scores by {last}, which is not supported")


def _check_layers(path: Path, family: str, config: ModelConfig) -> None:
    if config.text("position_embedding_type") not in {"", "absolute"}:
        raise folder_refusal(path, f"has {config.text('position_embedding_type')} positions, which are not supported")
    every = config.number("global_attn_every_n_layers") or 3
    kinds = config.texts("layer_types") if family == "modernbert" else ()
    if any((kind == "full_attention") != (number % every == 0) for number, kind in enumerate(kinds)):
        raise folder_refusal(path, "has layer_types in an order that is not supported")


def _max_tokens(path: Path, family: str, config: ModelConfig, tokenizer: ModelConfig) -> int:
    """Return the limit, at most the number of positions: mlx reads beyond a table without an error."""
    positions = needed(path, config, "max_position_embeddings")
    if family == "xlm_roberta":
        # Its positions count from pad_id + 1.
        positions -= (config.number("pad_token_id") or 0) + 1
    limits = [positions, tokenizer.number("model_max_length") or positions]
    return min(*limits, _LONGEST_PROMPT) if family in _GENERATIVE else min(limits)
