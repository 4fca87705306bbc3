"""Ids: ULIDs (26 characters, sortable by time) with their kind in front."""

from ulid import ULID


def new_id(kind: str = "") -> str:
    """Return a new id such as `job-01K…`; a bare ULID without a kind."""
    ulid = str(ULID())
    return f"{kind}-{ulid}" if kind else ulid
