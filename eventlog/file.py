"""The stored file: what its events add up to. Once deleted, it does not come back."""

from collections.abc import Iterable

from eventlog.batch_events import FileDeleted, FileStored
from eventlog.events import Event, Unknown


def fold(events: Iterable[Event | Unknown]) -> FileStored | None:
    """Return how the file was stored, from its events, oldest first; None when nobody may see it."""
    stored: FileStored | None = None
    for event in events:
        match event:
            case FileStored():
                stored = stored or event
            case FileDeleted():
                return None
            case _:
                pass
    return stored
