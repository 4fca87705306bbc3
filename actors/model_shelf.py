"""What models lie on this machine, in the catalogue or not. Asks no network."""

from collections.abc import Iterator
from pathlib import Path

import structlog

from actors import hub_cache
from actors.catalogue import ModelFilesError, conversion, local_path
from actors.conversion import ConversionError, quantised_folder
from actors.model_facts import discover
from actors.model_files import check_files, folder_below
from bus.errors import RefusedError
from bus.messages.catalogue import ModelEntry

log = structlog.get_logger()


def local_folder(entry: ModelEntry) -> Path | None:
    """Return the folder from which an engine would load `entry`, or None if something has to be fetched first.

    Of a model that is quantised when it is loaded for the first time, that is until then the larger original.
    Raises `ModelFilesError` if its path can only be a folder, and there is none, or if it cannot be read.
    """
    folder = local_path(entry.path or entry.id)
    converted = conversion(folder) if folder and entry.kind == "embeddings" else None
    folder = folder if converted is None else converted
    if folder is None or not folder.is_dir():
        return None
    try:
        quantised = quantised_folder(entry, folder)
    except ConversionError as error:
        raise ModelFilesError(str(error)) from error
    return quantised if quantised and quantised.is_dir() else folder


def is_here(entry: ModelEntry) -> bool:
    """Say whether all that an engine needs for `entry` lies on this machine: fetched, and quantised if it is to be.

    Raises `ModelFilesError` as `local_folder` does.
    """
    folder = local_folder(entry)
    if folder is None or (entry.draft_model and local_path(entry.draft_model) is None):
        return False
    try:
        quantised = quantised_folder(entry, folder)
    except ConversionError as error:
        raise ModelFilesError(str(error)) from error
    return quantised is None or quantised == folder


def available(folders: tuple[Path, ...]) -> list[tuple[str, Path]]:
    """Return the models below `folders` and in the hub's cache that can be loaded, by id, each once.

    In a folder a model is `name` or `organisation/name`. What cannot be loaded is left out, and the log says why.
    """
    found: dict[str, Path] = {}
    for model, folder in _candidates(folders):
        if model in found:
            continue
        try:
            check_files(folder)
            discover(folder)
        except ModelFilesError as error:
            log.warning("model.left_out", model=model, error=str(error))
        else:
            found[model] = folder
    return list(found.items())


def _candidates(folders: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    for above in folders:
        for name in _names(above.expanduser()):
            try:
                yield name, folder_below(name, (above,))
            except RefusedError as error:
                log.warning("model.left_out", model=name, error=str(error))
    for repository in hub_cache.repositories():
        snapshot = hub_cache.snapshot(repository)
        if snapshot and _is_model(snapshot):
            yield repository, snapshot


def _names(above: Path) -> Iterator[str]:
    for folder in sorted(above.glob("*")):
        if _is_model(folder):
            yield folder.name
        else:  # The parts of a model are none.
            yield from (f"{folder.name}/{inner.name}" for inner in sorted(folder.glob("*")) if _is_model(inner))


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "model_index.json"))
