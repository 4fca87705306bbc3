"""Heavy models in the slots of a whole Fusion, and what clients, the bus and the log tell of them."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout, StreamReader, TCPConnector

from bus.client import Bus
from bus.config import BusConfig
from bus.errors import BusError
from bus.events import EventLog
from bus.messages.models import ListModels
from bus.messages.presence import Heartbeat
from bus.subjects import LIST_MODELS
from eventlog.events import Event, ModelLost
from tests.support import tiny_models
from tests.support.nats import until, until_it
from tests.support.processes import Fusion, fusion_up

MODELS = ONE, TWO, THREE = "org/one", "org/two", "org/three"
MODEL_FEED = "fusion.feed.model.>"

# Forbids the token that ends a text of `tiny_models`.
NEVER_ENDING = {"1": -100}

_CONTEXT_LENGTH = 100_000


class Heavy:
    """A Fusion with heavy models, as its clients see it. `events` are those of models, as they were recorded."""

    def __init__(self, fusion: Fusion, http: ClientSession, bus: Bus, events: list[Event]) -> None:
        self.fusion = fusion
        self.http = http
        self.bus = bus
        self.events = events

    def recorded(self, kind: type[Event], model: str) -> list[Any]:
        """Return the events of one kind about one model."""
        return [event for event in self.events if isinstance(event, kind) and event.model == model]

    async def cards(self) -> dict[str, dict[str, Any]]:
        """Return what HTTP tells of each model, once NATS tells the same."""
        cards: dict[str, dict[str, Any]] = {}

        async def are_told() -> bool:
            with suppress(BusError):
                listed = await self.bus.ask(LIST_MODELS(), ListModels())
                async with self.http.get("/v1/models") as response:
                    cards.update({card["id"]: card for card in (await response.json()).get("data", [])})
                return {card.id: card.state for card in listed.models} == _values(cards, "state")
            return False

        await until_it(are_told)
        return cards

    async def states(self) -> dict[str, str]:
        """Return the state of each model."""
        return _values(await self.cards(), "state")

    async def leases(self) -> dict[str, int]:
        """Return how many requests hold each model."""
        return _values(await self.cards(), "leases")

    async def until_states(self, states: dict[str, str], seconds: float = 60.0) -> None:
        """Wait until these models have these states."""
        await self._until("state", states, seconds)

    async def until_leases(self, leases: dict[str, int]) -> None:
        """Wait until so many requests hold these models."""
        await self._until("leases", leases)

    async def until_idle(self) -> None:
        """Wait until nothing holds a model any more."""
        await self.until_leases(dict.fromkeys(await self.states(), 0))

    async def load(self, model: str) -> int:
        """Have the model loaded and return the status."""
        async with self.http.post("/v1/models/load", json={"model_id": model}) as response:
            return response.status

    async def unload(self, model: str) -> int:
        """Have the model unloaded and return the status."""
        async with self.http.post(f"/v1/models/{model}/unload") as response:
            return response.status

    async def ask(self, model: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Ask for a few words, and return the status and the answer."""
        body = {"model": model, "prompt": "Once", "max_tokens": 4, "temperature": 0} | more
        async with self.http.post("/v1/completions", json=body) as response:
            return response.status, await response.json()

    async def ask_again(self, model: str) -> tuple[int, dict[str, Any]]:
        """Ask as a client does that tries again while it is told 503."""
        async with asyncio.timeout(60):
            while (answer := await self.ask(model))[0] == 503:
                await asyncio.sleep(0.2)
            return answer

    async def pid_of(self, model: str, *, other_than: int = 0) -> int:
        """Return the process id of the slot that has the model, once there is one."""
        await until(lambda: (slot := self._slot_of(model)) and slot.pid != other_than, 60)
        slot = self._slot_of(model)
        assert slot is not None
        return slot.pid

    def says(self, model: str, **fields: Any) -> bool:
        """Whether this is what the slot that has the model says of itself."""
        slot = self._slot_of(model)
        return slot is not None and all(getattr(slot, name) == value for name, value in fields.items())

    def slot_pids(self) -> set[int]:
        """Return the process ids of all slots."""
        return {pid for name, pid in self.fusion.running.processes.items() if name.startswith("slot-")}

    async def until_lost(self, model: str, count: int = 1) -> None:
        """Wait until the log says so many times that the model's process has ended unasked."""
        await until(lambda: len(self.recorded(ModelLost, model)) == count)

    @asynccontextmanager
    async def story(self, model: str) -> AsyncGenerator["Story"]:
        """Give a stream that has begun and ends by itself only after minutes."""
        body = {"model": model, "prompt": "Once", "max_tokens": 20_000, "temperature": 0, "stream": True}
        async with self.http.post("/v1/completions", json=body | {"logit_bias": NEVER_ENDING}) as response:
            assert response.status == 200, await response.text()
            story = Story(response.content)
            await story.more()
            yield story

    async def _until(self, key: str, wanted: dict[str, Any], seconds: float = 60.0) -> None:
        told: dict[str, Any] = {}

        async def is_told() -> bool:
            told.update(_values(await self.cards(), key))
            return wanted.items() <= told.items()

        try:
            await until_it(is_told, seconds)
        except TimeoutError as error:
            raise AssertionError(told) from error

    def _slot_of(self, model: str) -> Heartbeat | None:
        beats = self.bus.presence.instances
        return next((beat for beat in beats if beat.model == model and beat.slot is not None), None)


class Story:
    """A stream that goes on and on. `frames` are those that have come, without the comments."""

    def __init__(self, content: StreamReader) -> None:
        self.frames: list[bytes] = []
        self._content = content

    async def more(self, frames: int = 1) -> None:
        """Read so many more pieces of text. Fails when the stream ends or breaks."""
        async with asyncio.timeout(60):
            for _ in range(frames):
                frame = await self._next()
                assert b'"error"' not in frame, frame
                assert b'"text"' in frame, frame

    async def error(self) -> dict[str, Any]:
        """Read on to the error that ends the stream, and return it."""
        async with asyncio.timeout(60):
            while b'"error"' not in (frame := await self._next()):
                pass
            assert await self._content.read() == b""
        error: dict[str, Any] = json.loads(frame.removeprefix(b"data: "))["error"]
        return error

    async def _next(self) -> bytes:
        while not (frame := await self._content.readuntil(b"\n\n")).startswith(b"data: "):
            assert frame.startswith(b":"), frame
        self.frames.append(frame)
        return frame


@asynccontextmanager
async def heavy_up(folder: Path, actors: str = "slots: 2, min_residency: 0", more: str = "") -> AsyncGenerator[Heavy]:
    """Run a Fusion with `MODELS`; `actors` is said in that table of its configuration, and `more` above it."""
    async with fusion_up(folder, f"{more}\n{config(folder, actors)}") as fusion, heavy(fusion) as running:
        yield running


def config(folder: Path, actors: str) -> str:
    """Return a configuration with `MODELS`, whose files it writes into `folder`."""
    return f"actors: {{{actors}}}\nmodels:\n" + "".join(entry(model, made(folder, model)) for model in MODELS)


@asynccontextmanager
async def heavy(fusion: Fusion) -> AsyncGenerator[Heavy]:
    """Connect to a Fusion with heavy models."""
    events: list[Event] = []
    connector, timeout = TCPConnector(limit=0), ClientTimeout(total=120)
    async with (
        Bus.connect("test", BusConfig(url=fusion.running.nats_url)) as bus,
        EventLog(bus).follow(MODEL_FEED) as feed,
        ClientSession(fusion.running.http_url, connector=connector, timeout=timeout) as http,
    ):

        async def follow() -> None:
            async for item in feed:
                events.append(item.event)  # type: ignore[arg-type]  # noqa: PERF401 - all are known, and never end

        following = asyncio.create_task(follow())
        try:
            yield Heavy(fusion, http, bus, events)
        finally:
            following.cancel()


def made(folder: Path, name: str) -> Path:
    """Write the model `name`, whose weights no other has, if it is not there yet."""
    path = folder / name.replace("/", "-")
    if not path.exists():
        short = tiny_models.llama(folder / f"{path.name}-short", seed=sum(name.encode()))
        tiny_models.changed(short, path, config={"max_position_embeddings": _CONTEXT_LENGTH})
    return path


def entry(name: str, path: Path, more: str = "", kind: str = "chat") -> str:
    """Return the line of the catalogue for a heavy model."""
    return f"  - {{id: {name}, path: {path}, kind: {kind}, tier: 2{', ' if more else ''}{more}}}\n"


def _values(cards: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    return {name: card[key] for name, card in cards.items()}
