"""The recorder and the models actor."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from actors import models
from actors.config import ActorsConfig
from actors.recorder import Recorder
from bus.client import Bus
from bus.errors import LostError, RefusedError
from bus.events import EventLog
from bus.heartbeat import say
from bus.messages.catalogue import ModelEntry
from bus.messages.models import GetModel, ListModels
from bus.messages.presence import Heartbeat
from bus.streams import ensure_streams, stream_last_seq
from bus.subjects import GET_MODEL, LIST_MODELS
from eventlog.events import RequestFinished
from tests.support import make
from tests.support.nats import Server, connected, until, until_it

ENTRIES = (
    ModelEntry(id="a/b-1.5", path="embedded:x", kind="chat", tier=1, tags=("t",), description="d"),
    ModelEntry(id="e", path="embedded:x", kind="embeddings", tier=0),
)


async def test_event_that_nobody_waits_for_is_recorded(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        recorder = Recorder(EventLog(bus))
        running = asyncio.create_task(recorder.run())
        recorder.put(make.request_finished())
        async with EventLog(bus).follow() as events, asyncio.timeout(60):
            recorder.put(make.request_finished(request_id="req-2"))
            recorded = await anext(events)
        running.cancel()
        await asyncio.wait((running,))

    assert isinstance(recorded.event, RequestFinished)


async def test_what_waits_is_still_recorded_when_it_stops(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        recorder = Recorder(EventLog(bus))
        running = asyncio.create_task(recorder.run())
        await asyncio.sleep(0)
        for _ in range(20):
            recorder.put(make.request_finished())
        running.cancel()
        await asyncio.wait((running,))

        assert await stream_last_seq(bus.nc, "EVENTS") == 20


async def test_event_that_is_being_recorded_when_it_stops_is_not_lost(server: Server) -> None:
    async with connected(server.url, append_timeout=60) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        recorder = Recorder(EventLog(bus))
        running = asyncio.create_task(recorder.run())
        await server.kill()
        recorder.put(make.request_finished())
        await until(recorder._queue.empty)
        running.cancel()
        await server.start()
        await asyncio.wait((running,))

        assert await stream_last_seq(bus.nc, "EVENTS") == 1


async def test_recorder_that_stops_does_not_wait_for_the_server_with_each_event(server: Server) -> None:
    async with connected(server.url, append_timeout=0.1) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        recorder = Recorder(EventLog(bus))
        running = asyncio.create_task(recorder.run())
        await server.kill()
        for _ in range(10):
            recorder.put(make.request_finished())
        await until(lambda: recorder._queue.qsize() == 9)
        with capture_logs() as logs:
            running.cancel()
            await asyncio.wait((running,))

    assert [entry["count"] for entry in logs if "count" in entry] == [9]
    assert recorder._queue.qsize() == 9


async def test_more_than_it_holds_is_dropped_without_an_error(server: Server) -> None:
    async with connected(server.url) as bus:
        recorder = Recorder(EventLog(bus))
        for _ in range(10_050):
            recorder.put(make.request_finished())

        assert recorder._queue.qsize() == 10_000


async def test_models_stand_as_their_heartbeats_say(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        life = asyncio.ensure_future(
            models.child(bus, lambda: ENTRIES, tmp_path, ActorsConfig(), "models-1", opened).run()
        )
        await until_it(lambda: is_served(bus))
        before = await bus.ask(LIST_MODELS(), ListModels())
        await say(bus, beat("1", "starting"))
        await until(lambda: len(bus.presence.instances) == 1)
        loading = await bus.ask(GET_MODEL(), GetModel(model="a/b-1.5"))
        await say(bus, beat("2", "ready", context_length="4096", dimensions=""))
        await until(lambda: len(bus.presence.instances) == 2)
        ready = await bus.ask(GET_MODEL(), GetModel(model="a/b-1.5"))
        with pytest.raises(RefusedError) as refused:
            await bus.ask(GET_MODEL(), GetModel(model="none"))
        life.cancel()
        await asyncio.wait((life,))

    assert [(card.id, card.state) for card in before.models] == [("a/b-1.5", "restarting"), ("e", "restarting")]
    assert loading.state == "loading"
    assert (ready.state, ready.context_length, ready.dimensions, ready.tags) == ("ready", 4096, None, ("t",))
    assert (refused.value.code, refused.value.failure.param) == ("model_not_found", "model")


def beat(instance: str, state: str, **detail: str) -> Heartbeat:
    return Heartbeat(
        instance=instance,
        role="chat",
        state=state,  # type: ignore[arg-type]
        pid=1,
        at=0.0,
        model="a/b-1.5",
        detail=detail,
    )


async def opened() -> None:
    """Nobody waits for it."""


async def is_served(bus: Bus) -> bool:
    try:
        await bus.ask(LIST_MODELS(), ListModels())
    except LostError:
        return False
    return True
