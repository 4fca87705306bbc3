"""Reads a model folder in the layout of sentence-transformers; refuses what would give other vectors.

Touches no mlx. Weights and tokens are read elsewhere.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from actors.engines.folder import folder_refusal, no_model
from actors.model_files import read_any_json

Pooling = Literal["mean", "cls", "max", "last"]
FileT = TypeVar("FileT")

# Families whose last hidden states mlx-embeddings gives per token. lfm2 and the col… families answer with
# many vectors per text, siglip and …_vl need pictures.
_FAMILIES: Final = frozenset(("bert", "gemma3_text", "llama_bidirec", "modernbert", "qwen3", "xlm_roberta"))
# These have the same layers. Of them mlx-embeddings takes the second for granted, whatever else their files say.
BERTS: Final = frozenset(("bert", "xlm_roberta"))
_OF_BERT: Final = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
_POOLINGS: Final[Mapping[str, Pooling]] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "max": "max",
    "max_tokens": "max",
    "lasttoken": "last",
}
_MODULES: Final = frozenset(("Transformer", "Pooling", "Dense", "Normalize"))
# Tokenizers without a limit of their own carry 1e30.
_NO_LIMIT: Final = 10**9


class EmbeddingFolder(Struct, frozen=True, kw_only=True):
    """What the files say about turning a text into a vector. `max_tokens` counts special tokens too.

    `default_prompt` goes before every text for which nothing else is said; "" is none. Without `includes_prompt` its
    tokens are read and not pooled. `matryoshka_dimensions` are what vectors may be cut to: empty for anything, None for
    nothing.
    """

    path: Path
    family: str
    pooling: Pooling
    is_normalised: bool
    max_tokens: int
    vocabulary_size: int
    pad_id: int
    is_lower_case: bool
    is_quantised: bool
    prompts: Mapping[str, str]
    default_prompt: str
    includes_prompt: bool
    matryoshka_dimensions: tuple[int, ...] | None


class _Config(Struct, frozen=True):
    model_type: str
    vocab_size: int
    max_position_embeddings: int | None = None
    pad_token_id: int | None = None
    quantization: dict[str, object] | None = None
    quantization_config: dict[str, object] | None = None
    # As vLLM reads them.
    is_matryoshka: bool | None = None
    matryoshka_dimensions: tuple[int, ...] | None = None
    hidden_act: str | None = None
    position_embedding_type: str | None = None


class _Module(Struct, frozen=True):
    type: str
    path: str = ""


class _Lengths(Struct, frozen=True):
    max_seq_length: int | None = None
    do_lower_case: bool = False


class _Tokenizer(Struct, frozen=True):
    model_max_length: int | float | None = None


class _Sentences(Struct, frozen=True):
    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None
    truncate_dim: int | None = None


def read_folder(path: Path) -> EmbeddingFolder:
    """Return what the model folder `path` declares.

    Raises `RefusedError` if it is no model folder, or has a family, module, pooling or default that cannot be honoured,
    and `ModelFilesError` for files that cannot be read.
    """
    config = _read(path / "config.json", _Config)
    if config is None:
        raise no_model(path)
    family = config.model_type.replace("-", "_")
    if family not in _FAMILIES:
        raise folder_refusal(path, f"is of family {family}, not one of {', '.join(sorted(_FAMILIES))}")
    for name, value in _OF_BERT.items() if family in BERTS else ():
        if (said := getattr(config, name)) not in (None, value):
            raise folder_refusal(path, f"has the {name} {said}, of which only {value} is supported")
    sentences = _sentences(path)
    prompts = {name: prompt or "" for name, prompt in sentences.prompts.items()}
    modules = _read(path / "modules.json", list[_Module])
    lengths = _read(next(iter(sorted(path.glob("sentence_*_config.json"))), path / "-"), _Lengths) or _Lengths()
    pooling, includes_prompt = _pooling(path, family, modules)
    return EmbeddingFolder(
        path=path,
        family=family,
        pooling=pooling,
        is_normalised=modules is None or "Normalize" in _kinds(modules),
        max_tokens=_max_tokens(path, family, config, lengths),
        vocabulary_size=config.vocab_size,
        pad_id=config.pad_token_id or 0,
        is_lower_case=lengths.do_lower_case,
        is_quantised=(config.quantization or config.quantization_config) is not None,
        prompts=prompts,
        default_prompt=prompts[sentences.default_prompt_name] if sentences.default_prompt_name else "",
        includes_prompt=includes_prompt,
        matryoshka_dimensions=config.matryoshka_dimensions or (() if config.is_matryoshka else None),
    )


def _read(path: Path, kind: type[FileT]) -> FileT | None:
    content = read_any_json(path)
    try:
        return None if content is None else msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise folder_refusal(path.parent, f"has an unreadable {path.name}: {error}") from error


def _sentences(path: Path) -> _Sentences:
    sentences = _read(path / "config_sentence_transformers.json", _Sentences) or _Sentences()
    name = sentences.default_prompt_name
    if name and name not in sentences.prompts:
        raise folder_refusal(path, f"puts the prompt {name} before every text, and does not have it")
    if sentences.truncate_dim is not None:
        raise folder_refusal(path, f"cuts every vector to {sentences.truncate_dim} dimensions, which is not supported")
    return sentences


def _kinds(modules: Sequence[_Module]) -> list[str]:
    """Return the class names: old and new versions of sentence-transformers differ in the path before it."""
    return [module.type.rpartition(".")[2] for module in modules]


def _pooling(path: Path, family: str, modules: Sequence[_Module] | None) -> tuple[Pooling, bool]:
    """Return the pooling declared, and whether it takes in prompts; undeclared, what the family was made for."""
    folder = "1_Pooling"
    for module, kind in zip(modules or (), _kinds(modules or ()), strict=True):
        # The model class of gemma3_text contains its two dense layers; no other has any.
        if kind not in _MODULES or (kind == "Dense" and family != "gemma3_text"):
            raise folder_refusal(path, f"has the module {kind}, which is not supported for family {family}")
        if kind == "Pooling":
            folder = module.path
    declared = _read(path / folder / "config.json", dict[str, object])
    if declared is None:
        return ("last" if family == "qwen3" else "mean"), True
    modes = [key.removeprefix("pooling_mode_") for key, value in declared.items() if value is True and "_mode_" in key]
    if isinstance(mode := declared.get("pooling_mode"), str):
        modes = [mode]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise folder_refusal(path, f"pools by {' + '.join(modes) or 'nothing'}, not one of mean, cls, max, lasttoken")
    return _POOLINGS[modes[0]], declared.get("include_prompt") is not False


def _max_tokens(path: Path, family: str, config: _Config, lengths: _Lengths) -> int:
    """Return the limit, at most the number of positions: mlx reads beyond a table without an error."""
    tokenizer = _read(path / "tokenizer_config.json", _Tokenizer) or _Tokenizer()
    positions = config.max_position_embeddings
    if positions is not None and family == "xlm_roberta":
        # Its positions count from pad_id + 1.
        positions -= (config.pad_token_id or 0) + 1
    declared = lengths.max_seq_length or tokenizer.model_max_length
    limits = [int(limit) for limit in (declared, positions) if limit is not None and limit < _NO_LIMIT]
    if not limits:
        raise folder_refusal(path, "says nowhere how many tokens fit")
    return min(limits)
