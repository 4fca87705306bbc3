"""What can be known of a model from its files, without loading it: what it is, what it can do, what it will take.

Reads headers and configurations only, and imports neither mlx nor transformers: it takes milliseconds.
"""

import sys
from pathlib import Path
from typing import assert_never

from msgspec import Struct

from actors.catalogue import ModelFilesError, local_path
from actors.engines.embeddings_folder import EmbeddingFolder, read_folder
from actors.engines.pictures_folder import PictureFolder, read_picture_folder, reads_pictures
from actors.engines.rerank_folder import RerankFolder, read_rerank_folder
from actors.model_config import ModelConfig
from actors.model_files import read_json
from actors.model_kind import is_image, kind_of, modalities_of
from actors.model_kv import KvShape, kv_shape
from actors.model_template import chat_abilities
from actors.model_weights import Weights, read_weights
from bus.errors import RefusedError
from bus.messages.catalogue import ModelEntry
from bus.messages.models import ModelKind

# So many texts of so many tokens are expected at once, if nobody has said how many, or how much they may take.
_TEXTS = 4
_TOKENS = 8192

# A process that has loaded a toy takes 115 MB, and one with MiniLM 86 MB beside its weights.
_PROCESS_BYTES = 128 * 2**20

# While a batch is computed, that takes memory too.
_WORKING_SHARE = 0.1

# On a Mac models are computed as they are, mostly in half precision; elsewhere in float32.
_WIDENS = sys.platform != "darwin"
_WIDE, _HALF = 4, 2

# What gives the chances of words: an engine for embeddings leaves it where it is.
_HEADS = ("lm_head.", "language_model.lm_head.")

# Quantised keys and values come with a scale and a bias, of a number each, for so many.
_KV_GROUP = 64


class Discovered(Struct, frozen=True, kw_only=True):
    """What the files of a model tell.

    `context_length` is in tokens. `parameters` counts weights, of which a packed number holds several, `size_bytes` is
    what they take in the files, and `dtype` that of most that are not packed. `quantisation` is "4bit", "8bit",
    "mxfp4" or alike. `capabilities` are Ollama's words where it has one: "completion", "tools", "thinking", "vision",
    "embedding"; "chat" is said of a model with a chat template, and other models have their kind. `loaded_bytes` is
    what the weights take in this machine's memory, and `kv` what each text takes beside them. `matryoshka_dimensions`
    are what vectors may be cut to: empty for anything, None for nothing.
    """

    kind: ModelKind
    family: str
    context_length: int | None
    dimensions: int | None
    parameters: int
    quantisation: str | None
    dtype: str | None
    size_bytes: int
    modalities: tuple[str, ...]
    capabilities: tuple[str, ...]
    loaded_bytes: int
    kv: KvShape | None
    matryoshka_dimensions: tuple[int, ...] | None = None


def discover(folder: Path, kind: ModelKind | None = None) -> Discovered:
    """Return what the files of the model in `folder` tell. Raises `ModelFilesError`, which names the file.

    A `kind` that is said goes before what they tell of it. It does not tell whether the files may be loaded: that is
    for `check_files`.
    """
    said = read_json(folder / "config.json")
    if not said and not is_image(folder):
        raise ModelFilesError(f"{folder} has no config.json, so it is no folder of a model.")
    config = ModelConfig(said)
    kind = kind or kind_of(folder, config)
    if kind is None:
        raise ModelFilesError(
            f"{folder / 'config.json'} does not say what the model is for, or it is for nothing that Fusion serves."
        )
    read = _read(folder, kind)
    weights = read_weights(folder, config, without=_HEADS if kind == "embeddings" else ())
    return Discovered(
        kind=kind,
        family=_family(folder, kind, config),
        context_length=_context_length(kind, config, read),
        dimensions=_dimensions(folder, config) if kind == "embeddings" else None,
        parameters=weights.parameters,
        quantisation=weights.quantisation,
        dtype=weights.dtype,
        size_bytes=weights.size_bytes,
        modalities=modalities_of(kind, config),
        capabilities=_capabilities(folder, kind),
        loaded_bytes=_loaded_bytes(kind, weights),
        kv=kv_shape(config) if kind in ("chat", "vision") else None,
        matryoshka_dimensions=read.matryoshka_dimensions if isinstance(read, EmbeddingFolder | PictureFolder) else None,
    )


def estimated_bytes(discovered: Discovered, entry: ModelEntry) -> int:
    """Return how much memory the process of `entry` will take: what the entry says, or else the sum of three.

    1. The weights, those of the draft model and of the adapter included, as far as they lie on this machine.
    2. `reserved_kv_bytes`.
    3. A tenth of the weights for computing, and 128 MiB for the process.

    Raises `ModelFilesError` for a draft model as `discover` does.
    """
    if entry.memory_bytes is not None:
        return entry.memory_bytes
    draft = _draft(entry)
    weights = discovered.loaded_bytes + (draft.loaded_bytes if draft else 0) + _adapter_bytes(entry)
    return int(weights * (1 + _WORKING_SHARE)) + reserved_kv_bytes(discovered, entry) + _PROCESS_BYTES


def reserved_kv_bytes(discovered: Discovered, entry: ModelEntry) -> int:
    """Return how much memory texts are expected to take, and what is kept of earlier ones.

    That is `kv_cache_bytes` of the entry. Unsaid it is enough for 4 texts, or for as many as the entry's `concurrency`
    if that is less, of the entry's `context_length`, or else of 8192 tokens, or for one text of a draft model:
    layers × heads × size of a head × 2 × bytes of a number × tokens × texts.
    """
    if entry.kv_cache_bytes is not None:
        return entry.kv_cache_bytes
    tokens = min(entry.context_length or _TOKENS, discovered.context_length or _TOKENS)
    texts = min(entry.concurrency or _TEXTS, _TEXTS)
    draft = _draft(entry)
    return _text_bytes(discovered, tokens, entry.kv_bits) * texts + (_text_bytes(draft, tokens) if draft else 0)


def _text_bytes(discovered: Discovered, tokens: int, kv_bits: int | None = None) -> int:
    if discovered.kv is None:
        return 0
    plain = _WIDE if _WIDENS or discovered.dtype == "float32" else _HALF
    return int(discovered.kv.numbers(tokens) * (kv_bits / 8 + 2 * plain / _KV_GROUP if kv_bits else plain))


def _draft(entry: ModelEntry) -> Discovered | None:
    folder = local_path(entry.draft_model) if entry.draft_model else None
    return discover(folder) if folder else None


def _adapter_bytes(entry: ModelEntry) -> int:
    file = Path(entry.adapter).expanduser() / "adapters.safetensors"
    return file.stat().st_size if entry.adapter and file.is_file() else 0


def _family(folder: Path, kind: ModelKind, config: ModelConfig) -> str:
    return config.text("model_type") or ModelConfig(read_json(folder / "model_index.json")).text("_class_name") or kind


def _read(folder: Path, kind: ModelKind) -> EmbeddingFolder | PictureFolder | RerankFolder | None:
    """Return what the engine of a model for vectors or scores reads of it, or None if none of this version does."""
    try:
        if kind == "embeddings":
            return read_picture_folder(folder) if reads_pictures(folder) else read_folder(folder)
        return read_rerank_folder(folder) if kind == "rerank" else None
    except RefusedError:
        return None


def _context_length(
    kind: ModelKind, config: ModelConfig, read: EmbeddingFolder | PictureFolder | RerankFolder | None
) -> int | None:
    if kind in ("embeddings", "rerank"):
        return None if read is None else read.max_tokens
    return config.number("max_position_embeddings") or config.language.number("max_position_embeddings")


def _dimensions(folder: Path, config: ModelConfig) -> int | None:
    dense = [ModelConfig(read_json(file)) for file in sorted(folder.glob("*_Dense/config.json"))]
    last = dense[-1].number("out_features") if dense else None
    hidden = ("projection_size", "hidden_size", "d_model", "n_embd")
    return last or config.number("projection_dim") or config.language.number(*hidden)


def _capabilities(folder: Path, kind: ModelKind) -> tuple[str, ...]:
    match kind:
        case "chat":
            return ("completion", *chat_abilities(folder))
        case "vision":
            return ("completion", *chat_abilities(folder), "vision")
        case "embeddings":
            return ("embedding",)
        case "transcription" | "speech" | "image" | "rerank":
            return (kind,)
        case _:
            assert_never(kind)


def _loaded_bytes(kind: ModelKind, weights: Weights) -> int:
    if not _WIDENS:
        return weights.size_bytes
    if kind in ("embeddings", "rerank"):  # Their quantised weights are unpacked there.
        return weights.parameters * _WIDE
    return weights.size_bytes - weights.float_bytes + weights.floats * _WIDE
