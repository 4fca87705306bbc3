"""Lists of jobs through HTTP, from the history of jobs that were submitted."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors import historian
from actors.engines.echo import EchoEngine
from tests.support.jobs import living
from tests.support.nats import until_it
from tests.support.responses import responding
from tests.support.stack import CHAT_MODEL, Stack

BODY = {"model_id": CHAT_MODEL, "operation": "chat", "input": {"messages": [{"role": "user", "content": "Hello"}]}}


# What is asked in the year 10000, or before the year 1, stands beside what DuckDB might take for a part of its query.
ODD = [
    (200, {"metadata.": "x"}),
    (200, {"metadata.a'b\"c": "x"}),
    (200, {"created_before": "0001-01-01T00:00:00Z"}),
    (400, {"cursor": "nonsense"}),
    (400, {"created_after": "9999-12-31T23:59:59-23:00"}),
]


async def listed(edge: Stack, **query: str) -> dict[str, Any]:
    async with edge.http.get("/v1/jobs", params=query) as response:
        answer: dict[str, Any] = await response.json()
        assert response.ok, answer
        return answer


def numbers(answer: dict[str, Any]) -> list[str]:
    return [job["metadata"]["number"] for job in answer["jobs"]]


@asynccontextmanager
async def five_jobs(nats_url: str, folder: Path) -> AsyncGenerator[Stack]:
    """Run the parts that lists need, and five jobs numbered from 0, whose colours take turns."""
    async with (
        responding(nats_url, folder, EchoEngine()) as edge,
        living(historian.child(edge.bus, folder / "history.duckdb", edge.blobs, 7, "historian-1").run()),
    ):
        for number in range(5):
            metadata = {"number": str(number), "colour": ("red", "blue")[number % 2]}
            async with edge.http.post("/v1/jobs", json=BODY | {"metadata": metadata}) as response:
                assert response.ok

        async def are_done() -> bool:
            async with edge.http.get("/v1/jobs", params={"status": "completed"}) as response:
                return response.ok and (await response.json())["total"] == 5

        await until_it(are_done)
        yield edge


async def test_jobs_are_listed_as_the_query_says(nats_url: str, tmp_path: Path) -> None:
    async with five_jobs(nats_url, tmp_path) as edge:
        statuses = []
        for _, query in ODD:
            async with edge.http.get("/v1/jobs", params=query) as response:
                statuses.append(response.status)
        every = await listed(edge)
        second = every["jobs"][3]["created_at"]
        oldest_first = await listed(edge, sort="created_at")
        red = await listed(edge, **{"metadata.colour": "red"})
        red_two = await listed(edge, **{"metadata.colour": "red", "metadata.number": "2"})
        later = await listed(edge, created_after=second)
        earlier = await listed(edge, created_before=second)
        pages, cursor = [], ""
        while cursor is not None:
            page = await listed(edge, limit="2", sort="completed_at", **({"cursor": cursor} if cursor else {}))
            pages.append(numbers(page))
            cursor = page["next_cursor"]

    assert statuses == [status for status, _ in ODD]
    assert numbers(every) == ["4", "3", "2", "1", "0"]
    assert numbers(oldest_first) == ["0", "1", "2", "3", "4"]
    assert (numbers(red), numbers(red_two)) == (["4", "2", "0"], ["2"])
    assert sorted({*numbers(later), *numbers(earlier), "1"}) == ["0", "1", "2", "3", "4"]
    assert not {*numbers(later)} & {*numbers(earlier)}
    assert pages == [["0", "1"], ["2", "3"], ["4"]]
