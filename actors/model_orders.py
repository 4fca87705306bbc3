"""What an order to load means for a model that the catalogue does not have: an entry, or a refusal."""

import re
from pathlib import Path

from msgspec import ValidationError, convert

from actors.catalogue import ModelFilesError, local_path
from actors.model_facts import discover
from actors.model_files import folder_below
from bus.errors import RefusedError
from bus.messages.catalogue import HEAVY, MODEL_ID, ModelEntry
from bus.messages.models import LoadModel, ModelKind

_EMBEDDED = "embedded:"


def entry_for(request: LoadModel, folders: tuple[Path, ...]) -> ModelEntry:
    """Return the entry of a heavy model as it was ordered. Reads files, so call it beside the event loop.

    Raises `RefusedError`: for no path at all, one that may not be loaded from, a kind that is not said and cannot be
    read, and an id that is none.
    """
    if request.path is None:
        raise RefusedError("model_not_found", f"The model '{request.model}' does not exist.", param="model")
    path = _path(request.path, folders)
    fields = {
        "id": request.model or request.path.rstrip("/").removeprefix(_EMBEDDED).removeprefix(f"{Path(path).parent}/"),
        "kind": request.kind or _kind(path),
        "path": path,
        "tier": HEAVY,
        "context_length": request.context_length,
        "priority": request.priority or "normal",
        "ttl": request.ttl,
    }
    try:
        return convert(fields, ModelEntry)
    except ValidationError as error:
        raise RefusedError("invalid_request", f"The model cannot be added: {error}", param="model") from error


def check_same(request: LoadModel, entry: ModelEntry, folders: tuple[Path, ...]) -> None:
    """Raise `RefusedError` if the order says otherwise than the entry that the catalogue has under this id."""
    said = {
        "path": _path(request.path, folders) if request.path else None,
        "kind": request.kind,
        "context_length": request.context_length,
        "priority": request.priority,
    }
    has = {
        "path": entry.path or entry.id,
        "kind": entry.kind,
        "context_length": entry.context_length,
        "priority": entry.priority,
    }
    for param, value in said.items():
        if value is not None and value != has[param]:
            message = f"The catalogue has the model '{entry.id}' with another {param}: {has[param]}."
            raise RefusedError("conflict", message, param=param)


def _path(path: str, folders: tuple[Path, ...]) -> str:
    """Return where the files lie: what is embedded, a folder below one of `folders`, or a repository of the hub."""
    if path.startswith(_EMBEDDED):
        return path
    is_name = re.fullmatch(MODEL_ID, path) is not None
    if is_name and not any((folder.expanduser() / path).is_dir() for folder in folders) and not Path(path).exists():
        return path
    return str(folder_below(path, folders))


def _kind(path: str) -> ModelKind:
    try:
        folder = local_path(path)
        if folder is None:
            message = f"{path} is not on this machine yet, so its kind must be said."
            raise RefusedError("invalid_request", message, param="kind")
        return discover(folder).kind
    except ModelFilesError as error:
        raise RefusedError("invalid_request", str(error), param="path") from error
