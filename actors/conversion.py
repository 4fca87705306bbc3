"""Models in fewer bits a weight: when they are wanted, and where they are kept.

The conversion itself is actors/engines/quantisation.py, run as a process of its own: its memory comes back, its mlx is
not that of the engine, and it can be killed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import psutil
import structlog

from actors import model_quantisation
from actors.model_config import ModelConfig
from bus.messages.catalogue import ModelEntry
from bus.messages.models import ModelKind, Quantisation
from bus.process import PARENT_PIPE

log = structlog.get_logger()

_CONVERTIBLE: tuple[ModelKind, ...] = ("chat", "embeddings", "rerank")
_ORIGIN = "fusion.json"
_GB = 10**9


class ConversionError(Exception):
    """A model cannot be converted; the message says why."""


class _Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Which folder one of the cache was made from, as it stands in it."""

    source: str


def cache_folder() -> Path:
    """Return where conversions are kept."""
    return Path.home() / ".cache" / "fusion" / "models"


def quantisation_for(memory_bytes: int) -> Literal["4bit", "8bit", "none"]:
    """Return what "auto" means on a machine with so much memory.

    4 bits below 32 GB, 8 bits from there, and the weights as they are from 64 GB on. GB are 10⁹ bytes, so that a
    machine sold with 32 GiB, of which the firmware keeps some, counts as one.
    """
    if memory_bytes < 32 * _GB:
        return "4bit"
    return "8bit" if memory_bytes < 64 * _GB else "none"


def quantised(entry: ModelEntry, folder: Path, cache: Path | None = None) -> Path:
    """Return the folder of the model in `folder` in the `quantisation` of its entry: itself, or a conversion.

    A conversion is made once and kept in `cache`. Raises `ConversionError`.
    """
    target = quantised_folder(entry, folder, cache)
    if target is None:
        return folder
    if entry.kind not in _CONVERTIBLE:
        raise ConversionError(f"it is for {entry.kind}, and only models for {', '.join(_CONVERTIBLE)} can be")
    if not target.is_dir():
        _convert(entry, folder, target)
    return target


def quantised_folder(entry: ModelEntry, folder: Path, cache: Path | None = None) -> Path | None:
    """Return where the conversion of `folder` lies, or will; None if it stays as it is: so does what is quantised.

    Raises `ConversionError`.
    """
    chosen = _chosen(entry)
    if chosen == "none" or _is_quantised(folder):
        return None
    return (cache or cache_folder()) / f"{folder_name(folder)}-{chosen}-{_digest(folder, chosen)}"


def made_once(source: Path, target: Path, write: Callable[[Path], None]) -> Path:
    """Return the folder `target`, which `write` makes, somewhere beside it, from `source` unless it is there already.

    It appears whole or not at all, and is made once however many ask for it at a time. What a killed process has left
    is removed by the next.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.part")
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        shutil.rmtree(draft, ignore_errors=True)
        try:
            write(draft)
            (draft / _ORIGIN).write_bytes(msgspec.json.encode(_Origin(source=str(source.resolve()))))
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def conversions_of(source: Path, cache: Path | None = None) -> list[Path]:
    """Return the folders of `cache` that were made from `source`, or from one of those.

    `source` may also be a repository in the cache of the hub, with all its snapshots.
    """
    source = source.resolve()
    made = [file for file in sorted((cache or cache_folder()).glob(f"*/{_ORIGIN}")) if not file.parent.is_symlink()]
    found = [file.parent for file in made if _origin(file) == source or _origin(file).parent == source / "snapshots"]
    return [*found, *(second for first in found for second in conversions_of(first, cache))]


def folder_name(folder: Path) -> str:
    """Return the name of the folder, or of the repository whose snapshot it is in the cache of the hub."""
    real = folder.resolve()
    return real.parent.parent.name.removeprefix("models--") if real.parent.name == "snapshots" else real.name


def weights_bytes(folder: Path) -> int:
    """Return the size of the weights in `folder`."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _origin(file: Path) -> Path:
    return Path(msgspec.json.decode(file.read_bytes(), type=_Origin).source)


def _chosen(entry: ModelEntry) -> Quantisation:
    wanted = entry.quantisation
    return quantisation_for(psutil.virtual_memory().total) if wanted == "auto" else wanted


def _is_quantised(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConversionError(f"its config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ConversionError("its config.json holds no JSON object")
    return model_quantisation.quantised(ModelConfig(config)) is not None


def _digest(folder: Path, chosen: str) -> str:
    """Return what changes with the folder, its files and the options."""
    digest = hashlib.sha256(f"{folder.resolve()} {chosen}".encode())
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        found = file.stat()
        digest.update(f"{file.name} {found.st_size} {found.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _convert(entry: ModelEntry, folder: Path, target: Path) -> None:
    begun = time.monotonic()
    words = [entry.kind, _chosen(entry).removesuffix("bit"), str(folder), str(target)]
    # It ends when our end of its stdin closes, however we die.
    process = subprocess.Popen(
        [sys.executable, "-m", "actors.engines.quantisation", *words, *["--trust-code"] * entry.trust_code],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {PARENT_PIPE: "1"},
    )
    with process:
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        said = process.stderr.read()
    if process.returncode < 0:
        raise ConversionError(f"the process was killed by signal {-process.returncode}")
    if process.returncode > 0:
        raise ConversionError(said.strip().splitlines()[-1])
    log.info(
        "model.converted",
        model=entry.id,
        target=str(target),
        seconds=round(time.monotonic() - begun, 3),
        size_bytes_before=weights_bytes(folder),
        size_bytes=weights_bytes(target),
    )
