"""What the files of a model may be, before anything reads them: no way out of the folder, no code, no damage.

Weights are read from safetensors files, and from npz files without pickle; files of pickle (`*.bin`, `*.pt`) are
neither fetched nor read, so they may lie there.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.catalogue import ModelFilesError
from actors.safetensors_header import read_tensors
from bus.errors import RefusedError
from bus.messages.catalogue import MODEL_ID

# transformers runs the first, mlx-lm and mlx-vlm the second, if one of these files says so.
_CODE_KEYS = frozenset(("auto_map", "model_file"))
_CODE_FILES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")

# More is no folder of a model: one can name any folder, such as that of the user.
_MOST_FILES = 10_000
_MOST_JSON_BYTES = 64 * 2**20


def check_files(folder: Path, *, trust_code: bool = False) -> None:
    """Raise `ModelFilesError` if no library should read the model or the adapter in `folder`.

    Links may lead to what is in the folder, and from a snapshot of the hub's cache to the cache's blobs. Code is
    allowed only with `trust_code`. All safetensors files are whole, and all those that an index names are there.
    """
    if not folder.is_dir():
        raise ModelFilesError(f"There is no folder {folder}.")
    for file in _files(folder):
        if file.suffix == ".py" and not trust_code:
            raise _code(folder, file.name)
        if file.name in _CODE_FILES and not trust_code and (keys := _CODE_KEYS & read_json(file).keys()):
            raise _code(folder, f"{min(keys)} in {file.name}")
        if file.name.endswith(".safetensors.index.json"):
            _check_index(file)
        if file.suffix == ".safetensors":
            read_tensors(file)


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in `file`; nothing if it is not there. Raises `ModelFilesError`."""
    content = read_any_json(file)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ModelFilesError(f"{file} holds no JSON object.")
    return content


def read_any_json(file: Path) -> Any:
    """Return what is in `file`; None if it is not there. Raises `ModelFilesError`."""
    if not file.is_file():
        return None
    if file.stat().st_size > _MOST_JSON_BYTES:
        raise ModelFilesError(f"{file} is larger than {_MOST_JSON_BYTES} bytes.")
    try:
        # Not msgspec: some configurations have Infinity, which only Python's JSON knows.
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ModelFilesError(f"{file} cannot be read: {error}") from error


def folder_below(path: str, folders: tuple[Path, ...]) -> Path:
    """Return the folder of a model below one of `folders`, for a `path` that somebody has sent.

    It is `name` or `organisation/name`, with or without the path of the folder before it. Raises `RefusedError`.
    """
    if not folders:
        raise _refusal(path, "is no hub id, and no model folders are configured (model_folders)")
    for above in (folder.expanduser().absolute() for folder in folders):
        name = path.removeprefix(f"{above}/")
        if re.fullmatch(MODEL_ID, name) and (above / name).is_dir():
            folder = (above / name).resolve()
            if not folder.is_relative_to(above.resolve()):
                raise _refusal(path, "leads out of the model folder that it is in")
            return folder
    raise _refusal(path, "is no folder of a model, `name` or `organisation/name`, below a configured model folder")


def _files(folder: Path) -> Iterator[Path]:
    """Walk through `folder`. Hidden folders are left out: no library reads those of git or of the hub's client."""
    homes = (folder.resolve(), *_blobs(folder))
    count = 0
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *names):
            count += 1
            if count > _MOST_FILES:
                raise ModelFilesError(f"{folder} is no folder of a model: it has more than {_MOST_FILES} files.")
            _check_place(Path(path, name), homes)
        yield from (Path(path, name) for name in names)


def _check_place(file: Path, homes: tuple[Path, ...]) -> None:
    try:
        target = file.resolve()
        if not any(target.is_relative_to(home) for home in homes):
            raise ModelFilesError(f"{file} leads out of the folder of its model.")
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:  # The latter tells of links in a circle.
        raise ModelFilesError(f"{file} leads to no file.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ModelFilesError(f"{file} is no ordinary file.")


def _blobs(folder: Path) -> tuple[Path, ...]:
    """Return where the links of a snapshot lead: `<cache>/models--<id>/snapshots/<commit>` to one of two folders.

    Those of its repository lead on to the other one if several repositories have the same file.
    """
    cached = folder.resolve()
    if cached.parent.name != "snapshots" or not cached.parts[-3].startswith("models--"):
        return ()
    # Not resolved: were they links themselves, they might lead anywhere.
    return (cached.parents[1] / "blobs", cached.parents[2] / "blobs")


def _check_index(index: Path) -> None:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelFilesError(f"{index} has no weight_map from weights to files.")
    for name in sorted(set(shards.values())):
        if "/" in name or "\\" in name or name.startswith("."):
            raise ModelFilesError(f"{index} names a file that is not beside it: {name!r}.")
        if not (index.parent / name).is_file():
            raise ModelFilesError(f"{index.parent} lacks {name}, which {index.name} names.")


def _code(folder: Path, what: str) -> ModelFilesError:
    return ModelFilesError(
        f"The model {folder.name} comes with code of its own ({what}), which is not run. "
        "The entry of a chat model in the configuration may say `trust_code: true`."
    )


def _refusal(path: str, why: str) -> RefusedError:
    return RefusedError("invalid_request", f"The path {path!r} {why}.", param="path")
