"""The indexes of collections, with hnswlib, over rows that come and go."""

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from actors.rag.collection_index import Found
from actors.rag.indexes import Indexes
from bus.errors import RefusedError
from tests.support.jobs import living
from tests.support.nats import until_it
from tests.support.vectors import DIMENSIONS, Rows, change, clustered, opened

# A few more than are compared one by one.
MANY = 5_200


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The snapshot of `Rows(MANY)`."""
    folder = tmp_path_factory.mktemp("saved")

    async def save() -> None:
        async with opened(folder, Rows(MANY)):
            pass

    asyncio.run(save())
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A folder with that snapshot."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path


def labels_of(found: Found) -> list[int]:
    return [label for label, _ in found.scored]


async def is_found(indexes: Indexes, rows: Rows, labels: Iterable[int]) -> bool:
    """Tell whether each of these is the nearest to itself."""
    by_label = dict(zip(rows.labels.tolist(), rows.rows, strict=True))
    return all([labels_of(await indexes.search("c", by_label[label], 1)) == [label] for label in labels])


async def test_what_was_applied_is_found_before_the_graph_has_it(tmp_path: Path) -> None:
    rows = Rows()
    async with opened(tmp_path, rows) as indexes:
        await indexes.apply([rows.add(MANY)])
        before, card = await indexes.search("c", rows.rows[-1], 10), await indexes.card("c")
        await indexes.settle()
        after, settled = await indexes.search("c", rows.rows[-1], 10), await indexes.card("c")
        await indexes.apply([rows.add(1)])
        newest = await indexes.search("c", rows.rows[-1], 10)

    assert labels_of(before) == labels_of(after) == rows.nearest(rows.rows[-2], 10)
    assert (before.degraded, after.degraded, newest.degraded) == (True, False, False)
    assert (card.kind, card.state, card.vectors) == ("exact", "rebuilding", MANY)
    assert (settled.kind, settled.state, settled.vectors) == ("hnsw", "ready", MANY)
    assert labels_of(newest)[0] == MANY


async def test_few_vectors_are_compared_and_none_are_no_error(tmp_path: Path) -> None:
    rows = Rows(5)
    async with opened(tmp_path, rows) as indexes:
        found, card = await indexes.search("c", rows.rows[0] * 100, 10), await indexes.card("c")
        nothing = await indexes.search("unknown", rows.rows[0], 10)

    assert labels_of(found) == rows.nearest(rows.rows[0], 5)
    assert found.scored[0].score == pytest.approx(1)
    assert (card.kind, card.state, card.vectors, card.snapshot_at) == ("exact", "ready", 5, None)
    assert nothing == ([], False)


async def test_applying_twice_changes_nothing(tmp_path: Path) -> None:
    rows = Rows(10)
    async with opened(tmp_path, rows) as indexes:
        stored, deleted = rows.add(10), rows.remove(np.array([15]))
        await indexes.apply([stored, deleted])
        await indexes.apply([stored, deleted])

        assert (await indexes.labels("c")).tolist() == rows.labels.tolist()


@pytest.mark.parametrize(
    "vector",
    [np.ones(DIMENSIONS - 1), np.ones(DIMENSIONS + 1), np.ones((1, DIMENSIONS)), np.zeros(DIMENSIONS)]
    + [np.full(DIMENSIONS, value) for value in (np.nan, np.inf)],
)
async def test_a_query_that_is_no_vector_of_the_collection_is_refused(tmp_path: Path, vector: np.ndarray) -> None:
    async with opened(tmp_path, Rows(5)) as indexes:
        with pytest.raises(RefusedError) as refused:
            await indexes.search("c", vector, 10)

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", "embedding")


async def test_stored_vectors_without_a_direction_are_left_out(tmp_path: Path) -> None:
    rows = Rows()
    async with opened(tmp_path, rows) as indexes:
        change = rows.add(3)
        change.vectors[0], change.vectors[1, 2] = 0, np.nan
        await indexes.apply([change])

        assert labels_of(await indexes.search("c", rows.rows[2], 10)) == [2]


@pytest.mark.parametrize("allowed", [0, 1, 3, 4_900, 5_100])
async def test_filtered_searches_find_the_nearest_of_those_allowed(folder: Path, allowed: int) -> None:
    rows = Rows(MANY)
    async with opened(folder, rows) as indexes:
        await indexes.apply([rows.add(100)])
        labels = np.random.default_rng(1).choice(rows.labels, allowed, replace=False)
        found = await indexes.search("c", rows.rows[0], 10, labels)

    assert labels_of(found) == rows.nearest(rows.rows[0], 10, labels)


async def test_a_filter_of_which_little_is_left_finds_all_of_that(folder: Path) -> None:
    rows = Rows(MANY)
    async with opened(folder, rows) as indexes:
        await indexes.apply([rows.remove(np.arange(1_000))])
        allowed = np.append(np.arange(MANY - 3, 2 * MANY), [1, 3_000])
        found = await indexes.search("c", rows.rows[0], 10, allowed)
        every = await indexes.search("c", rows.rows[0], MANY)

    assert labels_of(found) == rows.nearest(rows.rows[0], 4, allowed)
    assert sorted(labels_of(every)) == rows.labels.tolist()


async def test_nothing_that_is_gone_is_found_while_more_is_added(folder: Path) -> None:
    rows = Rows(MANY)
    gone: set[int] = set()
    async with opened(folder, rows, snapshot_seconds=0.01) as indexes:
        running = asyncio.create_task(indexes.run())
        for turn in range(60):
            labels = rows.labels[turn::200]
            await indexes.apply([rows.add(100), rows.remove(labels)])
            gone.update(labels.tolist())
            searches = [indexes.search("c", rows.rows[turn * 10 + i], 100) for i in range(4)]
            for found in await asyncio.gather(*searches):
                assert not gone & set(labels_of(found))
                assert len(found.scored) == 100
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await indexes.settle()

        assert (await indexes.labels("c")).tolist() == rows.labels.tolist()
        assert await is_found(indexes, rows, rows.labels[::50].tolist())


async def test_a_graph_with_many_that_are_gone_is_built_anew(tmp_path: Path) -> None:
    rows = Rows(7_400)
    async with opened(tmp_path, rows) as indexes:
        await indexes.apply([rows.remove(np.arange(2_200))])
        some = await indexes.card("c")
        await indexes.apply([rows.remove(np.arange(2_200, 2_300))])
        many = await indexes.card("c")
        await indexes.settle()
        settled = await indexes.card("c")

        assert (some.deleted, some.state) == (2_200, "ready")
        assert (many.deleted, many.state) == (0, "rebuilding")
        assert (settled.kind, settled.state, settled.vectors) == ("hnsw", "ready", 5_100)
        assert await is_found(indexes, rows, rows.labels[::100].tolist())


async def test_a_deleted_collection_may_come_back_with_other_vectors(folder: Path) -> None:
    rows = Rows(MANY)
    async with opened(folder, rows) as indexes:
        await indexes.apply([change(is_deleted=True)])
        gone = await indexes.search("c", rows.rows[0], 10)
        vectors = clustered(np.random.default_rng(1), 3, dimensions=4)
        await indexes.apply([change(dimensions=4, labels=np.arange(3) + MANY, vectors=vectors)])
        found = await indexes.search("c", vectors[2], 1)

        assert gone.scored == []
        assert labels_of(found) == [MANY + 2]
        assert list(folder.iterdir()) == []


async def test_a_restart_takes_the_snapshot_and_what_has_changed_since(folder: Path) -> None:
    rows = Rows(MANY)
    rows.add(50)
    rows.remove(rows.labels[10:20])

    async with opened(folder, rows) as indexes:
        card = await indexes.card("c")

        assert card.snapshot_at is not None
        assert (card.kind, card.state, card.vectors, card.deleted) == ("hnsw", "ready", MANY + 40, 10)
        assert (await indexes.labels("c")).tolist() == rows.labels.tolist()
        assert await is_found(indexes, rows, [*range(10), *range(MANY - 10, MANY + 50)])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, Path.unlink])
async def test_instead_of_a_damaged_snapshot_the_one_before_is_taken(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    rows = Rows(MANY)
    async with opened(folder, rows) as indexes:
        before = (await indexes.card("c")).snapshot_at
        await indexes.apply([rows.add(200)])
        await indexes.settle()
    damage(max(folder.rglob("*.arrays")))

    async with opened(folder, rows) as indexes:
        assert (await indexes.card("c")).snapshot_at == before
        assert await is_found(indexes, rows, rows.labels[::100].tolist())


def other_generation(rows: Rows) -> None:
    rows.generation = "second"


def earlier_state(rows: Rows) -> None:
    rows.remove(rows.labels[-1:])
    rows.next -= 1


def other_dimensions(rows: Rows) -> None:
    rows.rows = clustered(np.random.default_rng(2), MANY, dimensions=24)


@pytest.mark.parametrize("change", [other_generation, earlier_state, other_dimensions, None])
async def test_without_a_right_snapshot_searches_are_answered_and_the_graph_is_built(
    folder: Path, change: Callable[[Rows], None] | None
) -> None:
    rows = Rows(MANY)
    if change is None:
        flip(*folder.rglob("*.arrays"))
    else:
        change(rows)

    indexes = Indexes(folder, rows, ef=128, snapshot_seconds=3600)
    await indexes.open()
    found, card = await indexes.search("c", rows.rows[7], 10), await indexes.card("c")
    await indexes.close()

    assert labels_of(found) == rows.nearest(rows.rows[7], 10)
    assert found.degraded
    assert (card.kind, card.state, card.snapshot_at) == ("exact", "rebuilding", None)
    assert list(folder.rglob("*.arrays")) == []


async def test_a_rebuild_takes_what_the_store_has(folder: Path) -> None:
    rows = Rows(MANY)
    async with opened(folder, rows) as indexes:
        lost = rows.add(1)
        rows.remove(rows.labels[:3])
        await indexes.rebuild("c")
        card = await indexes.card("c")
        await indexes.apply([lost])

        assert (card.kind, card.state, card.vectors, card.deleted) == ("hnsw", "ready", MANY - 2, 0)
        assert (await indexes.labels("c")).tolist() == rows.labels.tolist()
        assert list(folder.iterdir()) == []


async def test_what_changes_during_a_rebuild_is_in_it(folder: Path) -> None:
    rows = Rows(MANY)
    async with opened(folder, rows) as indexes:

        async def change() -> None:
            for turn in range(20):
                await indexes.apply([rows.add(10), rows.remove(rows.labels[turn::500])])

        await asyncio.gather(indexes.rebuild("c"), change(), indexes.rebuild("unknown"))

        assert (await indexes.card("c")).state == "ready"
        assert (await indexes.labels("c")).tolist() == rows.labels.tolist()
        assert await is_found(indexes, rows, rows.labels[::100].tolist())


async def test_a_rebuild_that_is_given_up_is_finished_meanwhile(tmp_path: Path) -> None:
    rows = Rows()

    async def is_begun() -> bool:
        return (await indexes.card("c")).state == "rebuilding"

    async def is_ended() -> bool:
        return not await is_begun()

    async with opened(tmp_path, rows) as indexes, living(indexes.run()):
        # By then it has seen that nothing is to be built.
        for _ in range(10):
            assert await is_ended()
        rows.add(2 * MANY)
        async with living(indexes.rebuild("c")):
            await until_it(is_begun)
        await until_it(is_ended)

        assert (await indexes.card("c")).vectors == 2 * MANY


async def test_a_graph_is_saved_while_it_runs_when_it_has_changed(tmp_path: Path) -> None:
    rows = Rows(MANY)
    async with opened(tmp_path, rows, snapshot_seconds=0.01) as indexes:
        running = asyncio.create_task(indexes.run())

        async def is_saved() -> bool:
            return (await indexes.card("c")).snapshot_at is not None

        await until_it(is_saved)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert len(list(tmp_path.rglob("*.json"))) == 1


async def test_what_cannot_be_saved_stops_nothing(tmp_path: Path) -> None:
    rows = Rows(MANY)
    (tmp_path / "file").touch()
    async with opened(tmp_path / "file" / "indexes", rows) as indexes:
        await indexes.save()

        assert (await indexes.card("c")).snapshot_at is None
        assert await is_found(indexes, rows, [0])


async def test_without_hnswlib_vectors_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    rows = Rows(MANY)
    async with opened(tmp_path, rows) as indexes:
        found, card = await indexes.search("c", rows.rows[7], 10), await indexes.card("c")

    assert labels_of(found) == rows.nearest(rows.rows[7], 10)
    assert (found.degraded, card.kind, card.state) == (False, "exact", "ready")
