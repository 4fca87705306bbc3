"""The edge with all that responses need: a model, a log, the actors of jobs and responses, and a worker."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors import jobs, responses
from actors.attempt import WorkerConfig
from actors.config import ActorsConfig
from actors.worker import Worker
from bus.client import Bus
from bus.errors import LostError, RefusedError
from bus.messages.models import ModelCard
from bus.messages.responses import GetResponse
from bus.streams import ensure_streams
from bus.subjects import GET_RESPONSE
from tests.support.jobs import finding, living, room, served
from tests.support.nats import until_it
from tests.support.stack import CHAT_MODEL, Stack, chat_actor, stack

CARDS = {CHAT_MODEL: ModelCard(id=CHAT_MODEL, kind="chat", tier=1, state="ready", created=0)}


@asynccontextmanager
async def responding(nats_url: str, folder: Path, engine: Any) -> AsyncGenerator[Stack]:
    """Serve CHAT_MODEL with `engine`, and run jobs for it."""
    config = WorkerConfig(concurrency=1, max_attempts=2, run_timeout=30.0, drain=0.0)
    async with stack(nats_url, folder) as edge:
        await ensure_streams(edge.bus.nc, keep_days=7)
        async with (
            chat_actor(edge.bus, engine),
            living(
                jobs.child(edge.bus, edge.blobs, finding(CARDS), ActorsConfig(), "jobs-1").run(),
                responses.child(edge.bus, "responses-1").run(),
                Worker(edge.bus, edge.blobs, CHAT_MODEL, "chat-1", config).run(room),
            ),
        ):
            await until_it(lambda: served(edge.bus))
            await until_it(lambda: responses_served(edge.bus))
            yield edge


async def responses_served(bus: Bus) -> bool:
    try:
        await bus.ask(GET_RESPONSE(), GetResponse(response_id="resp_0"))
    except RefusedError:
        return True
    except LostError:
        return False
    return False
