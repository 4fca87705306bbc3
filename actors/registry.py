"""The registry: which models the catalogue has, by their ids and aliases, and what their files say of them.

The configured ones are read again on demand; those that were added by an order are kept in a file of the state folder.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import structlog

from bus.messages.catalogue import ModelEntry
from bus.messages.models import CatalogueReloaded

log = structlog.get_logger()

_decoder = msgspec.json.Decoder(tuple[ModelEntry, ...])


class Registry:
    """All models that may be asked. `read` returns the configured ones and raises `SettingsError`."""

    def __init__(self, read: Callable[[], tuple[ModelEntry, ...]], path: Path) -> None:
        self._read = read
        self._path = path
        self._configured = read()
        self._added = self._read_added()

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """All models, the configured ones first; what is configured stands before what was added under its id."""
        configured = {entry.id for entry in self._configured}
        return (*self._configured, *(entry for entry in self._added if entry.id not in configured))

    def find(self, name: str) -> ModelEntry | None:
        """Return the model with this id, or else with this alias."""
        entries = self.entries
        by_id = next((entry for entry in entries if entry.id == name), None)
        return by_id or next((entry for entry in entries if name in entry.aliases), None)

    def is_added(self, model: str) -> bool:
        """Whether the model is there by an order, and not by the configuration."""
        return any(entry.id == model for entry in self._added)

    def add(self, entry: ModelEntry) -> None:
        """Add a model, or put it in the place of the one that was added under its id."""
        self._keep((*(each for each in self._added if each.id != entry.id), entry))

    def remove(self, model: str) -> None:
        """Take out a model that was added."""
        self._keep(tuple(entry for entry in self._added if entry.id != model))

    def reload(self) -> CatalogueReloaded:
        """Read the configured models again. Raises `SettingsError`, and then leaves everything as it was."""
        before = {entry.id: entry for entry in self.entries}
        self._configured = self._read()
        after = {entry.id: entry for entry in self.entries}
        return CatalogueReloaded(
            added=_sorted(after.keys() - before.keys()),
            changed=_sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
            removed=_sorted(before.keys() - after.keys()),
        )

    def _read_added(self) -> tuple[ModelEntry, ...]:
        if not self._path.is_file():
            return ()
        try:
            return _decoder.decode(self._path.read_bytes())
        except (msgspec.DecodeError, OSError) as error:
            log.warning("registry.unreadable", path=str(self._path), error=str(error))
            return ()

    def _keep(self, added: tuple[ModelEntry, ...]) -> None:
        self._added = added
        beside = self._path.with_suffix(".new")
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(added)))
        beside.replace(self._path)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))
