"""Blobs of documents are there while a document has them, or is about to."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from actors.rag.scope import collection_id, is_visible
from actors.rag.shelf import Shelf
from bus.blobs import Blobs


class Named:
    """The blobs that documents have. While somebody asks for them, `meanwhile` happens."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def of(self, blobs: Iterable[str]) -> set[str]:
        found = set(blobs) & self.names
        self.asked.set()
        await self.gate.wait()
        return found


async def test_only_what_no_document_has_is_removed(tmp_path: Path) -> None:
    named = Named()
    shelf = Shelf(tmp_path, named.of)
    kept, left = await shelf.blobs.put(b"kept"), await shelf.blobs.put(b"left")
    named.names.add(kept)

    count = await shelf.remove([kept, left])

    assert count == 1
    assert (await shelf.blobs.get(kept), await shelf.blobs.get(left)) == (b"kept", None)


async def test_blob_that_is_being_stored_is_not_removed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, Named().of)
    name = await shelf.blobs.put(b"text")

    with shelf.pinning() as one, shelf.pinning() as another:
        one.add(name)
        another.add(name)
        during = await shelf.remove([name])
    after = await shelf.remove([])

    assert (during, after) == (0, 1)


async def test_blob_that_is_stored_again_while_it_is_removed_stays(tmp_path: Path) -> None:
    named = Named()
    named.gate.clear()
    shelf = Shelf(tmp_path, named.of)
    name = await shelf.blobs.put(b"text")

    removing = asyncio.create_task(shelf.remove([name]))
    await named.asked.wait()
    with shelf.pinning() as pins:
        pins.add(name)
        named.names.add(name)
    named.gate.set()

    assert await removing == 0
    assert await shelf.blobs.get(name) == b"text"


async def test_file_that_was_given_is_copied_once_and_missed_if_it_is_gone(tmp_path: Path) -> None:
    given, shelf = Blobs(tmp_path / "given"), Shelf(tmp_path / "shelf", Named().of)
    name = await given.put(b"text" * 2**20)

    path = await shelf.take(name, given)
    given.remove(name)
    again = await shelf.take(name, given)
    gone = await shelf.take("0" * 64, given)

    assert path == again
    assert path is not None
    assert path.read_bytes() == b"text" * 2**20
    assert gone is None


@pytest.mark.parametrize(
    ("key", "is_private", "visible"),
    [
        (None, False, {"a"}),
        ("key-1", False, {"a"}),
        (None, True, {"a"}),
        ("key-1", True, {"a@key-1"}),
    ],
)
def test_collections_are_seen_by_those_whose_they_are(key: str | None, is_private: bool, visible: set[str]) -> None:
    there = ("a", "a@key-1", "a@key-2")

    assert {each for each in there if is_visible(each, key, is_private=is_private)} == visible
    assert {collection_id("a", key, is_private=is_private)} == visible
