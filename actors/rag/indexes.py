"""The indexes of all collections, on a thread of their own.

What was added is found as soon as `apply` returns; `run` puts it into the graphs afterwards, a little at a time, so
that no search waits long. The store has all that is here; it is read when this opens, and when an index is rebuilt.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from actors.rag.blocks import Vector, Vectors
from actors.rag.change import Change
from actors.rag.collection_index import Card, CollectionIndex, Copy, Found
from actors.rag.hnsw import HnswIndex, is_installed
from actors.rag.index import unit
from actors.rag.labels import Labels
from actors.rag.snapshots import FORMAT, Manifest, Snapshot, SnapshotError, Snapshots
from bus.errors import RefusedError

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# A search waits no longer than this, and for one slice, while graphs are built.
_TURN = 0.01
_PAGE = 10_000
# An index is saved again when more than this part of it is new: what is not saved is quickly added again.
_WORTH_SAVING = 0.01


class VectorStore(Protocol):
    """Where the vectors are kept."""

    @property
    def generation(self) -> str:
        """Another one when it was made anew: labels mean the same within one only."""

    async def last_label(self) -> int:
        """Return the highest label that was ever given; -1 if none was."""

    async def dimensions(self) -> Mapping[str, int]:
        """Return how long vectors are, by collection."""

    async def vectors(self, collection: str, after_label: int, limit: int) -> tuple[Labels, Vectors]:
        """Return the next rows of the collection behind `after_label`, by label, at most `limit`."""


class Indexes:
    """Finds vectors. `ef` is how many a graph looks at; every `snapshot_seconds` graphs are saved that have changed."""

    def __init__(self, folder: Path, store: VectorStore, *, ef: int, snapshot_seconds: float) -> None:
        self._snapshots = Snapshots(folder)
        self._store = store
        self._ef = ef
        self._snapshot_seconds = snapshot_seconds
        self._has_graphs = is_installed()
        self._thread = ThreadPoolExecutor(1, "indexes")
        # One, because what is cancelled goes on writing, and nobody else may write there meanwhile.
        self._files = ThreadPoolExecutor(1, "index-files")
        self._changing = asyncio.Lock()
        self._has_work = asyncio.Event()
        # Touched on the thread only.
        self._indexes: dict[str, CollectionIndex] = {}

    async def open(self) -> None:
        """Read what the store has, and graphs from snapshots. Where no snapshot is right, `run` builds a graph."""
        dimensions = await self._store.dimensions()
        await self._on_files(self._snapshots.keep, dimensions)
        for collection, length in dimensions.items():
            async with asyncio.TaskGroup() as group:
                # Files are read meanwhile, which takes about as long.
                loading = group.create_task(self._load(collection, length))
                await self._restore(collection, length, loading)
        self._has_work.set()

    async def run(self) -> None:
        """Build graphs, and save them, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._build())
            group.create_task(self._save_at_times())

    async def apply(self, changes: Sequence[Change]) -> None:
        """Have searches find what is new, and nothing that is gone. What is known already changes nothing."""
        async with self._changing:
            for change in changes:
                await self._on_thread(self._apply, change)
                if change.is_deleted:
                    await self._on_files(self._snapshots.forget, change.collection)
        self._has_work.set()

    async def search(self, collection: str, vector: NDArray[Any], limit: int, allowed: Labels | None = None) -> Found:
        """Return the vectors with the highest cosine, at most `limit`; of those `allowed`, if given.

        Raises `RefusedError` ("invalid_request", "embedding") for a vector of other dimensions, or without a direction.
        """
        return await self._on_thread(self._search, collection, vector, limit, allowed)

    async def card(self, collection: str) -> Card:
        """Tell how the index of this collection stands."""
        return await self._on_thread(self._card, collection)

    async def labels(self, collection: str) -> Labels:
        """Return what can be found in this collection, rising."""
        return await self._on_thread(self._labels, collection)

    async def rebuild(self, collection: str) -> None:
        """Read the rows of the collection again and build its graph anew; searches are answered meanwhile.

        Returns when the graph is complete, at once for a collection that is not there.
        """
        await self._on_files(self._snapshots.forget, collection)
        async with self._changing:
            dimensions = (await self._store.dimensions()).get(collection)
            index = None if dimensions is None else await self._load(collection, dimensions)
        # Whoever asked may leave before it is complete.
        self._has_work.set()
        while index is not None and await self._on_thread(_advance, index):
            pass

    async def settle(self) -> None:
        """Put into the graphs all that they lack."""
        while await self._on_thread(lambda: any(map(_advance, self._indexes.values()))):
            pass

    async def save(self, least: float = 0) -> None:
        """Save each graph of which more than this part is new. What cannot be saved is told in the log."""
        for collection, index in await self._on_thread(lambda: list(self._indexes.items())):
            copy = await self._on_thread(index.copy, least)
            if copy is not None:
                await self._save(collection, index, copy)

    async def close(self) -> None:
        """Save what has changed, and end the thread."""
        await self.save()
        self._thread.shutdown()
        self._files.shutdown()

    async def _build(self) -> None:
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            await self.settle()

    async def _save_at_times(self) -> None:
        while True:
            await asyncio.sleep(self._snapshot_seconds)
            await self.save(_WORTH_SAVING)

    async def _load(self, collection: str, dimensions: int) -> CollectionIndex:
        index = self._empty(dimensions)
        labels, vectors = await self._store.vectors(collection, -1, _PAGE)
        while labels.size:
            await self._on_thread(index.add, labels, vectors)
            labels, vectors = await self._store.vectors(collection, int(labels[-1]), _PAGE)
        await self._on_thread(self._indexes.__setitem__, collection, index)
        return index

    async def _restore(self, collection: str, dimensions: int, loading: asyncio.Task[CollectionIndex]) -> None:
        if not self._has_graphs:
            return
        for snapshot in await self._on_files(self._snapshots.of, collection):
            try:
                graph, at = await self._graph(snapshot, collection, dimensions)
                await self._on_thread((await loading).restore, graph, at)
            except SnapshotError as error:
                log.warning("index.snapshot_refused", collection=collection, reason=str(error))
                await self._on_files(snapshot.delete)
            else:
                return

    async def _graph(self, snapshot: Snapshot, collection: str, dimensions: int) -> tuple[HnswIndex, datetime]:
        """Return the graph of a snapshot, and when it was made. Raises `SnapshotError`."""
        manifest = await self._on_files(snapshot.manifest)
        if (manifest.collection, manifest.dimensions) != (collection, dimensions):
            raise SnapshotError("it is of another collection")
        if manifest.format != FORMAT:
            raise SnapshotError("it was written by another version")
        # A store that was put back to an earlier state gives labels again that are in here already.
        if manifest.generation != self._store.generation or manifest.last > await self._store.last_label():
            raise SnapshotError("it is of another store")
        state = await self._on_files(snapshot.state)
        return await self._on_thread(HnswIndex.restored, state, self._ef), manifest.at

    async def _save(self, collection: str, index: CollectionIndex, copy: Copy) -> None:
        manifest = Manifest(
            collection=collection,
            generation=self._store.generation,
            dimensions=index.dimensions,
            count=copy.size,
            last=copy.last,
            at=datetime.now(UTC),
        )
        try:
            await self._on_files(self._snapshots.write, manifest, copy.state)
        except OSError as error:
            log.warning("index.not_saved", collection=collection, error=str(error))
        else:
            await self._on_thread(index.saved, copy, manifest.at)

    def _apply(self, change: Change) -> None:
        if change.is_deleted:
            self._indexes.pop(change.collection, None)
        if change.labels.size:
            index = self._indexes.setdefault(change.collection, self._empty(change.dimensions))
            index.add(change.labels, change.vectors)
        if change.gone.size and change.collection in self._indexes:
            self._indexes[change.collection].remove(change.gone)

    def _search(self, collection: str, vector: NDArray[Any], limit: int, allowed: Labels | None) -> Found:
        index = self._indexes.get(collection)
        if index is None:
            return Found([], degraded=False)
        return index.search(_checked(vector, index.dimensions), limit, allowed)

    def _card(self, collection: str) -> Card:
        index = self._indexes.get(collection)
        return Card("exact", "ready", 0, 0, None) if index is None else index.card

    def _labels(self, collection: str) -> Labels:
        index = self._indexes.get(collection)
        return np.zeros(0, np.int64) if index is None else index.labels

    def _empty(self, dimensions: int) -> CollectionIndex:
        return CollectionIndex(dimensions, partial(HnswIndex, dimensions, self._ef) if self._has_graphs else None)

    def _on_thread(self, work: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _on_files(self, work: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._files, work, *args)


def _advance(index: CollectionIndex) -> bool:
    """Put more into the graph, for one turn; return whether it lacks more."""
    return index.advance(time.monotonic() + _TURN)


def _checked(vector: NDArray[Any], dimensions: int) -> Vector:
    """Return the vector with norm 1. hnswlib would take any, and read past its end."""
    if vector.shape != (dimensions,):
        message = f"The embedding has to have {dimensions} numbers, and has {vector.size}."
        raise RefusedError("invalid_request", message, param="embedding")
    (row,), (has_direction,) = unit(vector[None])
    if not has_direction:
        message = "The embedding has to consist of finite numbers, not all of them 0."
        raise RefusedError("invalid_request", message, param="embedding")
    return np.asarray(row)
