"""Blobs: whole or not at all."""

import os
import time
from pathlib import Path

import pytest

from bus.blobs import Blobs

NAME = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of b"hello"


async def test_blob_is_kept_under_the_hash_of_its_content(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")

    name = await blobs.put(b"hello")

    assert name == NAME
    assert await blobs.get(name) == b"hello"


async def test_same_content_is_stored_once_and_nothing_else_is_left(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)

    names = {await blobs.put(b"hello"), await blobs.put(b"hello")}

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert names == {NAME}
    assert [path.name for path in files] == [NAME]
    assert files[0].stat().st_mode & 0o777 == 0o600
    assert files[0].parent.stat().st_mode & 0o777 == 0o700


async def test_empty_blob_is_a_blob(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)

    assert await blobs.get(await blobs.put(b"")) == b""


async def test_blob_that_is_gone_is_none(tmp_path: Path) -> None:
    assert await Blobs(tmp_path).get(NAME) is None


@pytest.mark.parametrize("content", [b"hellO", b"", b"hello\0"])
async def test_damaged_blob_is_none(tmp_path: Path, content: bytes) -> None:
    blobs = Blobs(tmp_path)
    await blobs.put(b"hello")
    (tmp_path / NAME[:2] / NAME).write_bytes(content)

    assert await blobs.get(NAME) is None


async def test_damaged_blob_is_mended_by_storing_it_again(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    await blobs.put(b"hello")
    (tmp_path / NAME[:2] / NAME).write_bytes(b"")

    await blobs.put(b"hello")

    assert await blobs.get(NAME) == b"hello"


@pytest.mark.parametrize("name", ["", "../secret", NAME[:-1], NAME.upper(), NAME + "\n", "/" + NAME[1:], NAME + "0"])
async def test_name_that_is_none_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a blob"):
        await Blobs(tmp_path).get(name)


async def test_only_old_blobs_are_forgotten(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old, new = await blobs.put(b"old"), await blobs.put(b"new")
    hour_ago = time.time() - 3600
    os.utime(tmp_path / old[:2] / old, (hour_ago, hour_ago))

    forgotten = await blobs.forget(older_than=1800)

    assert forgotten == 1
    assert await blobs.get(old) is None
    assert await blobs.get(new) == b"new"


async def test_storing_a_blob_again_renews_its_age(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = await blobs.put(b"hello")
    os.utime(tmp_path / name[:2] / name, (0, 0))

    await blobs.put(b"hello")

    assert await blobs.forget(older_than=1800) == 0


async def test_file_that_vanishes_meanwhile_does_not_stop_the_forgetting(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    name = await blobs.put(b"hello")
    # As a draft that was renamed between the listing and the look at it.
    (tmp_path / name[:2] / f"{name}.draft").symlink_to(tmp_path / "nowhere")

    assert await blobs.forget(older_than=-10) == 1


async def test_forgetting_where_nothing_was_ever_stored_is_fine(tmp_path: Path) -> None:
    assert await Blobs(tmp_path / "none").forget(older_than=0) == 0


async def test_blob_written_in_pieces_is_the_same_blob(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")

    async with blobs.writing() as draft:
        draft.write(b"hel")
        draft.write(b"lo")
        assert await blobs.get(NAME) is None

    assert (draft.name, draft.size) == (NAME, 5)
    assert await blobs.get(NAME) == b"hello"


async def test_draft_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)

    with pytest.raises(ZeroDivisionError):
        async with blobs.writing() as draft:
            draft.write(b"hello")
            raise ZeroDivisionError

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_drafts_that_are_written_together_are_stored_all_or_none(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)

    async def write_two(end: Exception | None = None) -> list[str]:
        names = []
        async with blobs.writing_together() as write:
            for piece in (b"hello", b"world"):
                async with write() as draft:
                    draft.write(piece)
                names.append(draft.name)
            assert [await blobs.get(name) for name in names] == [None, None]
            if end is not None:
                raise end
        return names

    with pytest.raises(ZeroDivisionError):
        await write_two(ZeroDivisionError())
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = await write_two()

    assert left == []
    assert [await blobs.get(name) for name in names] == [b"hello", b"world"]


async def test_draft_that_a_crash_has_left_is_forgotten(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)

    async with blobs.writing() as draft:
        draft.write(b"hello")
        [left] = [path for path in tmp_path.rglob("*") if path.is_file()]
        left.with_name("left").write_bytes(b"hel")

    assert await blobs.forget(older_than=-10) == 2


async def test_file_of_a_blob_is_found_unless_it_is_damaged(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    await blobs.put(b"hello")

    path, file = await blobs.find(NAME), await blobs.open(NAME)

    assert path is not None
    assert file is not None
    with file:
        assert path.read_bytes() == file.read() == b"hello"
    path.write_bytes(b"hellO")
    assert (await blobs.find(NAME), await blobs.open(NAME)) == (None, None)
    path.unlink()
    assert (await blobs.find(NAME), await blobs.open(NAME)) == (None, None)


async def test_renewed_blob_is_kept_as_one_that_is_stored_now(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    renewed, other = await blobs.put(b"hello"), await blobs.put(b"other")
    for name in (renewed, other):
        os.utime(tmp_path / name[:2] / name, (0, 0))

    there, missing = await blobs.renew(renewed), await blobs.renew("0" * 64)
    count = await blobs.forget(3600)

    assert (there, missing, count) == (True, False, 1)
    assert await blobs.get(renewed) == b"hello"


async def test_equal_blobs_that_are_passing_are_not_one(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, is_passing=True)

    names = []
    for _ in range(2):
        async with blobs.writing() as draft:
            draft.write(b"hello")
        names.append(draft.name)
    blobs.remove(names[0])
    other = await blobs.find(names[1])

    assert await blobs.find(names[0]) is None
    assert other is not None
    assert other.read_bytes() == b"hello"
