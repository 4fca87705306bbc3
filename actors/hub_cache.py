"""The cache of the hub's client on this machine, and fetching into it. Knows no entries of the catalogue.

The client is imported late: it takes half a second, which local models need not wait for.
"""

import gc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

# Weights in pickle are left where they are, and so is code, unless the model's code is trusted.
_PATTERNS = ("*.json", "*.safetensors", "*.npz", "*.txt", "*.model", "*.jinja", "1_Pooling/*")


class HubError(Exception):
    """The hub, or its client, did not give the files; the message says why."""


def fetched(repository: str, *, with_code: bool = False) -> Path:
    """Return the folder with the files of `repository`, brought up to date if the hub can be asked.

    Raises `HubError`.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - see above
    from huggingface_hub.errors import (  # type: ignore[attr-defined] # noqa: PLC0415 - the same
        HFValidationError,
        HTTPError,  # of its HTTP client, which is another one in other versions
        XetDownloadError,
    )

    patterns = [*_PATTERNS, *(["*.py"] if with_code else [])]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=patterns))
    except (HFValidationError, HTTPError, XetDownloadError, OSError) as error:
        # The status comes first, without what it is about.
        lines = [line for line in str(error).splitlines() if line and " Client Error." not in line]
        raise HubError(lines[0] if lines else type(error).__name__) from error
    gc.collect()  # Only now its progress bars close; later they would write over what is printed next.
    if not folder.is_dir():
        raise HubError("it has no files that Fusion reads")
    return folder


def snapshot(repository: str) -> Path | None:
    """Return the folder with the files of `repository` as they lie on this machine, if they do. Asks nobody.

    Of one that was fetched by another program, some may be missing.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - see above
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_PATTERNS), local_files_only=True))
    except (HFValidationError, OSError):
        return None


def repositories() -> list[str]:
    """Return the ids of the models that have files in the cache, in alphabetical order."""
    return sorted(_models())


def cached(repository: str) -> tuple[Path, int] | None:
    """Return the folder of all that the cache has of `repository`, and its size in bytes."""
    found = _models().get(repository)
    return (found.repo_path, found.size_on_disk) if found else None


def delete(repository: str) -> None:
    """Delete all that the cache has of `repository`."""
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - see above

    revisions = [revision.commit_hash for revision in _models()[repository].revisions]
    scan_cache_dir().delete_revisions(*revisions).execute()


def _models() -> "dict[str, CachedRepoInfo]":
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - see above
    from huggingface_hub.errors import CacheNotFound  # noqa: PLC0415

    try:
        found = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    return {repository.repo_id: repository for repository in found if repository.repo_type == "model"}
