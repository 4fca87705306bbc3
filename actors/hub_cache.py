"""The cache of the hub's client on this machine, and fetching into it. Knows no entries of the catalogue.

The client is imported late: it takes half a second, which local models need not wait for.
"""

from pathlib import Path

# Weights in pickle are left where they are, and so is code, unless the model's code is trusted.
_PATTERNS = ("*.json", "*.safetensors", "*.npz", "*.txt", "*.model", "*.jinja", "1_Pooling/*")


class HubError(Exception):
    """The hub, or its client, did not give the files; the message says why."""


def fetched(repository: str, *, with_code: bool = False) -> Path:
    """Return the folder with the files of `repository`, brought up to date if the hub can be asked.

    Raises `HubError`.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - see above
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    patterns = [*_PATTERNS, *(["*.py"] if with_code else [])]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise HubError(str(error).splitlines()[0]) from error


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
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - see above
    from huggingface_hub.errors import CacheNotFound  # noqa: PLC0415

    try:
        found = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(repository.repo_id for repository in found if repository.repo_type == "model")
