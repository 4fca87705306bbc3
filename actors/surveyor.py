"""The surveyor: reads what the files of models tell, once for each, so that nobody has to wait for it twice."""

import asyncio
from pathlib import Path

import structlog

from actors.catalogue import ModelFilesError
from actors.model_facts import Discovered, discover, estimated_bytes
from actors.model_files import check_files
from actors.model_shelf import available, local_folder
from bus.errors import RefusedError
from bus.messages.catalogue import HEAVY, ModelEntry

log = structlog.get_logger()


class Surveyor:
    """What is known of the models whose files lie on this machine."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._known: dict[ModelEntry, Discovered] = {}
        self._needs: dict[ModelEntry, int] = {}
        self._problems: dict[ModelEntry, str] = {}

    async def look(self, entry: ModelEntry) -> None:
        """Read the model's files, unless they were read before. What is not on this machine stays unknown."""
        if entry not in self._known:
            await asyncio.to_thread(self._read, entry)

    async def check(self, entry: ModelEntry) -> None:
        """Look at the model. Raises `RefusedError` for files that cannot be loaded: nothing is to give way for them."""
        await self.look(entry)
        if entry in self._problems:
            raise RefusedError("invalid_request", self._problems[entry], param="model")

    def of(self, entry: ModelEntry) -> Discovered | None:
        """Return what is known of the model."""
        return self._known.get(entry)

    def need_bytes(self, entry: ModelEntry) -> int:
        """Return how much memory the model is expected to take; 0 when nothing is known of it."""
        return entry.memory_bytes or self._needs.get(entry, 0)

    async def available(self) -> list[ModelEntry]:
        """Return the models that lie on this machine, as heavy ones."""
        found = await asyncio.to_thread(available, self._folders)
        entries = [await asyncio.to_thread(_entry, model, folder) for model, folder in found]
        for entry in entries:
            await self.look(entry)
        return entries

    def _read(self, entry: ModelEntry) -> None:
        try:
            self._problems.pop(entry, None)
            folder = local_folder(entry)
            if folder is None:
                return
            check_files(folder, trust_code=entry.trust_code)
            self._known[entry] = discovered = discover(folder)
            self._needs[entry] = estimated_bytes(discovered, entry)
        except ModelFilesError as error:
            self._problems[entry] = str(error)
            log.warning("model.unreadable", model=entry.id, error=str(error))


def _entry(model: str, folder: Path) -> ModelEntry:
    return ModelEntry(id=model, path=str(folder), kind=discover(folder).kind, tier=HEAVY)
