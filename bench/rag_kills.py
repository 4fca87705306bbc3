"""Documents come and go while the rag process is killed: `python -m bench.rag_kills --cycles 20`.

A whole Fusion, whose supervisor starts the process again each time. Before every start the snapshots of indexes are
damaged in one of three ways, or left alone. Clients store, replace and delete all the while and search for what they
have deleted. At the end of each cycle what they were told is held against what is there and what searches find.
Exit status 1 when a document is lost that was acknowledged, or one is seen that was deleted.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from bench.processes import machine
from bench.rag_fusion import Fusion, Given, fusion
from bench.rag_sets import unit
from bus.errors import BusError, LostError, RefusedError
from bus.frames import Status
from bus.messages.rag import SearchDocuments
from bus.messages.rag_documents import (
    DeleteDocuments,
    DocumentSource,
    IngestDocuments,
    ListCollections,
    ListDocuments,
    VerifyCollection,
)
from bus.process import run_until_stopped
from bus.subjects import (
    DELETE_DOCUMENTS,
    INGEST_DOCUMENTS,
    LIST_COLLECTIONS,
    LIST_DOCUMENTS,
    SEARCH_DOCUMENTS,
    VERIFY_COLLECTION,
)

_COLLECTION = "kills"
# A collection that is large enough for a graph, so that there are snapshots to be damaged.
_LARGE, _CHUNKS, _DIMENSIONS = "large", 6000, 384
_SNAPSHOT_SECONDS = 0.5
# The supervisor gives up what ends more than five times in a minute.
_BETWEEN = 12.0
_AT_ONCE = 3
_PATIENCE = 120.0
# Documents that are searched for after each cycle.
_SEARCHED = 20
_DAMAGES = ("left alone", "a bit flipped", "cut off", "emptied")


class _Told:
    """What the clients were told: which documents are there, and which are not. What nobody was told is open."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.gone: set[str] = set()
        self.open: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.seen: set[str] = set()


def main() -> None:
    """Read the arguments, kill, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.rag_kills", description=__doc__)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    run_until_stopped(lambda: _report(args))


async def _report(args: argparse.Namespace) -> None:
    dice = random.Random(args.seed)  # noqa: S311 - an order, not a secret
    told, damages = _Told(), Counter[str]()
    lost: set[str] = set()
    problems: list[str] = []
    print(f"{machine()}; seed {args.seed}")
    with TemporaryDirectory(prefix="fusion-bench-") as name:
        async with fusion(Path(name), snapshot_seconds=_SNAPSHOT_SECONDS) as running:
            await running.ingest([_large()], _LARGE)
            for cycle in range(args.cycles):
                damage = _DAMAGES[cycle % len(_DAMAGES)]
                async with _clients(running, told, dice):
                    await asyncio.sleep(_BETWEEN + dice.uniform(0.0, 2.0))
                    damages[damage] += await _killed(running, damage, dice)
                await _answering(running)
                lost |= told.there - await _there(running)
                problems += await _compared(running, told)
                lost |= await _unfound(running, told, dice)
                print(f"cycle {cycle + 1}: {damage}, {len(told.there)} there, {len(told.gone)} gone", flush=True)
    rows = {
        "kill -9": args.cycles,
        **{f"files of snapshots: {damage}": count for damage, count in damages.items()},
        **told.counts,
        "acknowledged documents lost": len(lost),
        "deleted documents seen": len(told.seen),
        "problems that verify found": len(problems),
    }
    print("\n| what | count |\n| --- | --- |", *(f"| {what} | {count} |" for what, count in rows.items()), sep="\n")
    if lost or told.seen or problems:
        sys.exit("\n".join([*lost, *told.seen, *problems]))


def _large() -> Given:
    rows = unit(np.random.default_rng(1).standard_normal((_CHUNKS, _DIMENSIONS)).astype(np.float32))
    return Given("large", [f"chunk {number}" for number in range(_CHUNKS)], rows)


@asynccontextmanager
async def _clients(running: Fusion, told: _Told, dice: random.Random) -> AsyncGenerator[None]:
    """Have clients at work until the block ends."""
    tasks = [asyncio.create_task(_client(running, told, dice)) for _ in range(_AT_ONCE)]
    tasks.append(asyncio.create_task(_look(running, told)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


async def _client(running: Fusion, told: _Told, dice: random.Random) -> None:
    """Store documents and delete some of them, until cancelled; go on where somebody is lost."""
    while True:
        names = [f"doc-{told.counts['given'] + number}" for number in range(dice.randint(1, 4))]
        told.counts["given"] += len(names)
        told.open |= set(names)
        with suppress(LostError):
            await _store(running, told, names)
        if told.there and dice.random() < 0.7:
            name = dice.choice(sorted(told.there))
            told.there.discard(name)
            told.open.add(name)
            with suppress(LostError):
                await _delete(running, told, name)
        # Where nobody answers, the error comes at once.
        await asyncio.sleep(0.05)


async def _store(running: Fusion, told: _Told, names: list[str]) -> None:
    sources = tuple(DocumentSource(document_id=name, text=f"a heron is called {name}") for name in names)
    request = IngestDocuments(documents=sources, collection=_COLLECTION)
    async with running.bus.stream(INGEST_DOCUMENTS(), request) as answer:
        async for item in answer:
            if not isinstance(item, Status) and item.document is not None:
                outcome = item.document
                if outcome.status not in {"stored", "replaced", "unchanged"} or outcome.document_id is None:
                    raise LookupError(f"{outcome.document_id} is {outcome.status}: {outcome.error}")
                told.open.discard(outcome.document_id)
                told.there.add(outcome.document_id)
                told.counts["acknowledged as stored"] += 1


async def _delete(running: Fusion, told: _Told, name: str) -> None:
    request = DeleteDocuments(collection=_COLLECTION, document_id=name)
    with suppress(RefusedError):  # Deleted by who was killed before it could say so.
        await running.bus.ask(DELETE_DOCUMENTS(), request, patience=_PATIENCE)
    told.open.discard(name)
    told.gone.add(name)
    told.counts["acknowledged as deleted"] += 1


async def _look(running: Fusion, told: _Told) -> None:
    """Search, until cancelled, and note what was deleted before the search began."""
    while True:
        gone = set(told.gone)
        request = SearchDocuments(query="a heron is called", collections=(_COLLECTION,), top_k=200)
        with suppress(BusError):
            found = await running.bus.ask(SEARCH_DOCUMENTS(), request, patience=_PATIENCE)
            told.seen |= {hit.document_id for hit in found.hits} & gone
            told.counts["searches"] += 1
        await asyncio.sleep(0.02)


async def _killed(running: Fusion, damage: str, dice: random.Random) -> int:
    """Kill the process, damage all files of snapshots while it is not there, and return how many there were."""
    process = running.rag
    os.kill(process.pid, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(process.wait, 10)
    files = [path for path in (running.state / "rag" / "indexes").rglob("*") if path.is_file()]
    for path in files:
        _damaged(path, damage, dice)
    return len(files)


def _damaged(path: Path, damage: str, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = dice.randrange(max(1, len(content)))
    match damage:
        case "a bit flipped" if content:
            content[place] ^= 1 << dice.randrange(8)
        case "cut off":
            del content[place:]
        case "emptied":
            content.clear()
        case _:
            pass
    path.write_bytes(content)


async def _answering(running: Fusion) -> None:
    """Return when the process answers again."""
    begun = time.monotonic()
    while True:
        try:
            await running.bus.ask(LIST_COLLECTIONS(), ListCollections())
        except LostError:
            if time.monotonic() - begun > _PATIENCE:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def _there(running: Fusion) -> set[str]:
    found: set[str] = set()
    after, has_more = None, True
    while has_more:
        request = ListDocuments(collection=_COLLECTION, limit=1000, after=after)
        page = await running.bus.ask(LIST_DOCUMENTS(), request, patience=_PATIENCE)
        found |= {card.document_id for card in page.documents}
        after, has_more = max(found, default=None), page.has_more
    return found


async def _unfound(running: Fusion, told: _Told, dice: random.Random) -> set[str]:
    """Return those of some documents which a search for their names does not find."""
    unfound = set()
    for name in dice.sample(sorted(told.there), min(_SEARCHED, len(told.there))):
        request = SearchDocuments(query=name, collections=(_COLLECTION,), mode="bm25", top_k=3)
        found = await running.bus.ask(SEARCH_DOCUMENTS(), request, patience=_PATIENCE)
        if name not in {hit.document_id for hit in found.hits}:
            unfound.add(name)
        told.counts["searches for a document that is there"] += 1
    return unfound


async def _compared(running: Fusion, told: _Told) -> list[str]:
    """Note what is seen although it is gone, settle what was open, and return what does not agree with the log."""
    there = await _there(running)
    told.seen |= told.gone & there
    told.there |= there
    told.gone |= told.open - there
    told.open.clear()
    problems: list[str] = []
    for collection in (_COLLECTION, _LARGE):
        async with running.bus.stream(VERIFY_COLLECTION(), VerifyCollection(collection=collection)) as answer:
            async for item in answer:
                if not isinstance(item, Status):
                    problems += item.problems
    return problems


if __name__ == "__main__":
    main()
