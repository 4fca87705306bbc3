"""The surveyor: reads what the files of models tell, once for each, and has fetched what is not on this machine."""

import asyncio
from pathlib import Path

import structlog
from msgspec import structs

from actors.catalogue import ModelFilesError
from actors.config import ActorsConfig
from actors.fetch import fetch
from actors.model_facts import Discovered, discover, estimated_bytes
from actors.model_files import check_files
from actors.model_shelf import available, is_here, local_folder
from bus.errors import RefusedError
from bus.messages.catalogue import HEAVY, ModelEntry

log = structlog.get_logger()


class Surveyor:
    """What is known of the models whose files lie on this machine."""

    def __init__(self, config: ActorsConfig) -> None:
        self._config = config
        self._known: dict[ModelEntry, Discovered] = {}
        self._needs: dict[ModelEntry, int] = {}
        self._prepared: set[ModelEntry] = set()
        self._errors: dict[ModelEntry, str] = {}
        self._preparing: dict[ModelEntry, asyncio.Task[None]] = {}

    async def look(self, entry: ModelEntry) -> None:
        """Read the model's files, unless they were read before. What is not here, or is broken, stays unknown."""
        if entry in self._known:
            return
        try:
            await asyncio.to_thread(self._read, entry)
        except ModelFilesError as error:
            log.warning("model.unreadable", model=entry.id, error=str(error))

    def of(self, entry: ModelEntry) -> Discovered | None:
        """Return what is known of the model."""
        return self._known.get(entry)

    def need_bytes(self, entry: ModelEntry) -> int:
        """Return how much memory the model is expected to take; 0 when nothing is known of it."""
        return entry.memory_bytes or self._needs.get(entry, 0)

    def is_prepared(self, entry: ModelEntry) -> bool:
        """Whether `prepare` has been done for it."""
        return entry in self._prepared

    def error_of(self, entry: ModelEntry) -> str | None:
        """Return why the model's files could not be prepared the last time, None if they were."""
        return self._errors.get(entry)

    def prepare(self, entry: ModelEntry) -> asyncio.Task[None]:
        """Have the model's files fetched and quantised, if need be, and read: what that takes no slot has to wait for.

        Done once for all who wait for it, and also when they do not wait any more. The task raises `RefusedError` for
        files that cannot be had or loaded.
        """
        if entry not in self._preparing:
            task = self._preparing[entry] = asyncio.create_task(self._prepare(entry), name=f"prepare {entry.id}")
            task.add_done_callback(lambda _: self._preparing.pop(entry))
        return self._preparing[entry]

    async def is_remote(self, entry: ModelEntry) -> bool:
        """Whether the model's files would have to be fetched, which may fail one time and not the next."""
        try:
            return await asyncio.to_thread(local_folder, entry) is None
        except ModelFilesError:
            return False

    async def available(self) -> list[ModelEntry]:
        """Return the models that lie on this machine, as heavy ones."""
        found = await asyncio.to_thread(available, self._config.model_folders)
        entries = [await asyncio.to_thread(_entry, model, folder) for model, folder in found]
        for entry in entries:
            await self.look(entry)
        return entries

    async def _prepare(self, entry: ModelEntry) -> None:
        try:
            if not await asyncio.to_thread(is_here, entry):
                log.info("model.fetching", model=entry.id)
                await fetch(entry)
            await asyncio.to_thread(self._read, entry)
        except ModelFilesError as error:
            self._errors[entry] = str(error)
            raise RefusedError("invalid_request", str(error), param="model") from error
        self._errors.pop(entry, None)
        self._prepared.add(entry)

    def _read(self, entry: ModelEntry) -> None:
        folder = local_folder(entry)
        if folder is not None:
            check_files(folder, trust_code=entry.trust_code)
            self._known[entry] = discovered = discover(folder, entry.kind)
            self._needs[entry] = estimated_bytes(discovered, bounded(entry, self._config))


def bounded(entry: ModelEntry, config: ActorsConfig) -> ModelEntry:
    """Return the entry with the memory for its texts that is configured for all models, unless it says its own."""
    if entry.kind != "chat" or entry.kv_cache_bytes is not None:
        return entry
    return structs.replace(entry, kv_cache_bytes=config.kv_cache_bytes)


def _entry(model: str, folder: Path) -> ModelEntry:
    return ModelEntry(id=model, path=str(folder), kind=discover(folder).kind, tier=HEAVY)
