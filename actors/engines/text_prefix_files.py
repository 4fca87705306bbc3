"""Keeps what a model has read from one life of its process to the next: one file for each entry of its prefix cache.

Lives on the engine thread. The files are read when the model is loaded and written when it is unloaded, so that no
text waits for the disk. A file's name says by which model its content was read, and what its bytes hash to.
"""

import hashlib
import os
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog
from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

from actors.engines.text_prefix import Entry, PrefixCache
from actors.engines.text_quantised_kv import Quantisation, from_parts, in_parts

log = structlog.get_logger()

_SUFFIX = ".safetensors"


class PrefixFiles:
    """The files of one model in `folder`, which holds nothing else: whatever is not theirs is removed.

    `weights` are the folders of the model and of its adapter.
    """

    def __init__(
        self, folder: Path, weights: tuple[Path, ...], dtype: str, quantisation: Quantisation | None = None
    ) -> None:
        self._folder = folder
        self._weights = weights
        self._dtype = dtype
        self._quantisation = quantisation
        self._identity = ""

    def load(self, kept: PrefixCache) -> None:
        """Put into `kept` what this very model has read, as far as there is room. Files that are damaged go."""
        self._identity = _identity(self._weights, self._dtype, self._quantisation)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
                if self._is_whole(path):
                    caches, metadata = load_prompt_cache(str(path), return_metadata=True)
                    if self._quantisation is not None:
                        caches = from_parts(caches, self._quantisation)
                    kept.put(msgspec.json.decode(metadata["tokens"], type=list[int]), caches)
                else:
                    path.unlink()
                    log.warning("prefix.removed", file=path.name)
        except OSError as error:
            log.warning("prefix.unread", error=str(error))

    def save(self, kept: PrefixCache) -> None:
        """Make the files those of the entries of `kept`. What was read from a file is not written again."""
        now = time.time_ns()
        theirs: set[Path] = set()
        try:
            for number, entry in enumerate(kept.entries):
                path = self._written(entry)
                # The order of use is that of the times of the files.
                os.utime(path, ns=(now + number, now + number))
                theirs.add(path)
            for path in set(self._folder.iterdir()) - theirs:
                path.unlink()
        except (OSError, RuntimeError) as error:  # mlx tells of a full disk with the latter.
            log.warning("prefix.unsaved", error=str(error))

    def _is_whole(self, path: Path) -> bool:
        identity, _, rest = path.name.partition("-")
        return identity == self._identity and rest.endswith(f"-{_digest(path)}{_SUFFIX}")

    def _written(self, entry: Entry) -> Path:
        """Return the file of `entry`, which is written unless it is there."""
        name = f"{self._identity}-{hashlib.sha256(entry.tokens.tobytes()).hexdigest()[:16]}"
        for path in self._folder.glob(f"{name}-*"):
            return path
        half = self._folder / f"half{_SUFFIX}"
        tokens = msgspec.json.encode(entry.tokens.tolist()).decode()
        save_prompt_cache(str(half), in_parts(entry.caches), {"tokens": tokens})
        return half.rename(self._folder / f"{name}-{_digest(half)}{_SUFFIX}")


def _identity(weights: tuple[Path, ...], dtype: str, quantisation: Quantisation | None) -> str:
    """Return what is the same only for the same weights in the same place, read alike by the same libraries."""
    files = sorted(file for folder in weights for name in ("*config.json", f"*{_SUFFIX}") for file in folder.glob(name))
    facts = [(str(file.absolute()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    versions = [version(name) for name in ("mlx", "mlx-lm")]
    return hashlib.sha256(msgspec.json.encode([facts, dtype, quantisation, versions])).hexdigest()[:16]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
