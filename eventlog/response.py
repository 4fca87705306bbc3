"""The stored response: what its events add up to. Once deleted, it does not come back."""

from collections.abc import Iterable

from eventlog.events import Event, ResponseDeleted, ResponseStored, Unknown


def fold(events: Iterable[Event | Unknown]) -> ResponseStored | None:
    """Return how the response was stored, from its events, oldest first; None when nobody may see it."""
    stored: ResponseStored | None = None
    for event in events:
        match event:
            case ResponseStored():
                stored = stored or event
            case ResponseDeleted():
                return None
            case _:
                pass
    return stored
