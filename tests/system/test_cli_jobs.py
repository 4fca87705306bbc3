"""`fusion jobs submit`, `list`, `show`, `cancel` and `replay`, as a user runs them."""

import asyncio
import json
from pathlib import Path

from actors import historian
from actors.engines.echo import EchoEngine
from bus.messages.history import HistoryQuery
from bus.streams import stream_last_seq
from bus.subjects import LIST_HISTORY
from tests.support.cli import fusion
from tests.support.jobs import living
from tests.support.responses import responding
from tests.support.stack import CHAT_MODEL

ASKED = '{"messages": [{"role": "user", "content": "Hello"}]}'


async def test_jobs_are_submitted_told_of_and_replayed(nats_url: str, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text(ASKED)
    here = {"FUSION_NATS_URL": nats_url}
    async with (
        responding(nats_url, tmp_path, EchoEngine()) as edge,
        living(historian.child(edge.bus, tmp_path / "history.duckdb", edge.blobs, 7, "historian-1").run()),
    ):
        order = ("jobs", "submit", CHAT_MODEL, "chat")
        waited, late = await asyncio.gather(
            fusion(*order, str(tmp_path / "input.json"), "--wait", "--priority", "high", environment=here),
            fusion(*order, "-", "--run-at", "2999-01-01T00:00:00Z", environment=here, typed=ASKED),
        )
        job_id = waited.out.split()[0]
        query = ("--status", "completed", "--model", CHAT_MODEL, "--created-after", "2020-01-01")
        # What nobody asks for may come into the history a moment later.
        seq = await stream_last_seq(edge.bus.nc, "EVENTS")
        await edge.bus.ask(LIST_HISTORY(), HistoryQuery(at_least=seq), patience=20)
        replayed, listed = await asyncio.gather(
            fusion("jobs", "replay", job_id, environment=here),
            fusion("jobs", "list", *query, environment=here),
        )

    assert waited.out.startswith(f"{job_id}  queued\n{{")
    job = json.loads(waited.out.partition("\n")[2])
    assert (job["status"], job["priority"]) == ("completed", "high")
    assert (late.status, late.err[:17]) == (1, "fusion: 'run_at' ")
    assert replayed.out.endswith("completed\nthe result is the same\n")
    assert job_id in listed.out
