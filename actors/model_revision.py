"""Tells the files of a model from any others, without reading all of the weights."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from actors.catalogue import ModelFilesError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = frozenset((".safetensors", ".npz"))
_TEXTS = frozenset((".json", ".jinja", ".txt", ".model"))

_SAMPLES = 64
_SAMPLE_BYTES = 64 * 2**10


def revision_of(folder: Path, adapter: Path | None = None) -> str:
    """Return what is the same as long as the files of the model in `folder`, and of its adapter, are.

    For a snapshot of the hub's cache it is the commit; else a digest of configuration and tokenizer, and of the weights
    their headers, sizes, and samples: about 4 MiB of each file are read. Raises `ModelFilesError`.
    """
    try:
        is_snapshot = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
        own = folder.name if is_snapshot else _digest(folder)
        return own if adapter is None else f"{own}+{_digest(adapter)}"
    except OSError as error:
        raise ModelFilesError(f"The files of a model cannot be read: {error}") from error


def _digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for file in sorted((*folder.iterdir(), *folder.glob("1_Pooling/*"))):
        if file.is_file() and file.suffix in _WEIGHTS | _TEXTS:
            name = file.relative_to(folder).as_posix()
            whole.update(hashlib.sha256(name.encode()).digest())
            whole.update(_digest_of_weights(file) if file.suffix in _WEIGHTS else _digest_of_text(file))
    return f"sha256:{whole.hexdigest()[:16]}"


def _digest_of_text(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _digest_of_weights(file: Path) -> bytes:
    size = file.stat().st_size
    found = hashlib.sha256(size.to_bytes(8, "little"))
    with file.open("rb") as opened:
        if file.suffix == ".safetensors":
            # The first 8 bytes tell how long the header is that follows them.
            header_bytes = int.from_bytes(opened.read(8), "little")
            found.update(opened.read(min(header_bytes, size)))
        for start in _starts(size):
            opened.seek(start)
            found.update(opened.read(_SAMPLE_BYTES))
    return found.digest()


def _starts(size: int) -> Iterator[int]:
    """Return where samples begin: evenly spread, the last one at the end. A file of 4 MiB or less is all in them."""
    count = min(_SAMPLES, size // _SAMPLE_BYTES + 1)
    last = max(size - _SAMPLE_BYTES, 0)
    return (last * number // max(count - 1, 1) for number in range(count))
