"""The whole system on one machine: starts every process in order, watches them, and stops them in reverse.

What stands where: the server first, for everything talks over it; the edge stops first, so that nobody new comes
in while running work finishes.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog
from msgspec.structs import asdict, replace
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from actors.configuration import Configuration, configuration
from actors.process import OnEnd, Program, Spawned, Start, run_process, spawn
from actors.standby import Standby, standing_by
from actors.supervisor import Child, Restarts, Supervision, supervising
from bus.client import Bus
from bus.errors import BusError
from bus.events import EventLog
from bus.heartbeat import PERIOD, say
from bus.ids import new_id
from bus.messages.catalogue import HEAVY, ModelEntry
from bus.messages.models import ReloadCatalogue
from bus.messages.presence import Heartbeat
from bus.messages.slots import Drain
from bus.process import PARENT_PIPE
from bus.server import ServerConfig, free_port, locked, server_run
from bus.settings import SettingsError
from bus.streams import ensure_streams
from bus.subjects import DRAIN, RELOAD_CATALOGUE, RELOADED, fill
from cli.escalation import escalating
from cli.state import Running, forget_running, write_running
from eventlog.events import ModelLost

log = structlog.get_logger()

READY_TIMEOUT = 600.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says beside the configuration. Ports of None are the configured ones."""

    config_path: Path | None = None
    http_host: str = "127.0.0.1"
    http_port: int = 8000
    edge_drain: float = 10.0
    environment: dict[str, str] = {}


class System:
    """The processes of one machine."""

    def __init__(self, config: Configuration, options: Options, on_progress: Callable[[str, int, int], None]) -> None:
        self._config = config
        self._options = options
        self._on_progress = on_progress
        self._state = config.bus.state
        self._logs = self._state / "logs"
        self._names: list[str] = []
        self._current: dict[str, tuple[str, int]] = {}
        self._given_up: set[str] = set()
        # Those that nobody waits for any more, because they have ended before they were ready.
        self._stumbled: set[str] = set()
        self._bus: Bus | None = None
        self._bus_config = config.bus
        self._running: Running | None = None
        self._leaving: set[str] = set()
        self._supervision: Supervision

    @property
    def given_up(self) -> frozenset[str]:
        """The models that could not be kept running."""
        return frozenset(self._given_up)

    @asynccontextmanager
    async def started(self) -> AsyncGenerator[Running]:
        """Run everything until the block ends. Yields when all is ready.

        Raises `ServerError`, `LostError`, or an ExceptionGroup with `GaveUpError`.
        """
        os.umask(0o077)  # Inherited by every child: what is in the state folder is the owner's alone.
        self._logs.mkdir(parents=True, exist_ok=True)
        port = self._options.http_port or free_port()
        async with AsyncExitStack() as stack:
            stack.enter_context(locked(self._state))
            stack.callback(forget_running, self._state)
            if not self._bus_config.url:
                server = await self._start_server(stack)
                self._bus_config = replace(self._bus_config, url=server.url, monitor_url=server.monitor_url)
            self._running = Running(
                pid=os.getpid(),
                nats_url=self._bus_config.url,
                http_url=f"http://{self._options.http_host}:{port}",
                started_at=datetime.now(UTC),
            )
            self._bus = bus = await stack.enter_async_context(Bus.connect("supervisor", self._bus_config))
            actors = self._config.actors
            await ensure_streams(bus.nc, actors.job_ttl_days, actors.events_max_bytes)
            await stack.enter_async_context(_periodically(self._tell_failed))
            await stack.enter_async_context(_periodically(self._tell_leaving))
            await stack.enter_async_context(escalating(bus, self._pid_of))
            await stack.enter_async_context(supervising(*self._light()))
            models = map(self._model, _warm(self._config).values())
            standby = await stack.enter_async_context(standing_by(self._standby()))
            self._supervision = await stack.enter_async_context(supervising(*models, *self._slots(standby)))
            reloads = await bus.nc.subscribe(RELOADED, cb=self._on_reloaded)
            stack.push_async_callback(reloads.unsubscribe)
            await stack.enter_async_context(supervising(self._edge(port)))
            try:
                async with asyncio.timeout(READY_TIMEOUT):
                    await bus.presence.until(self._all_ready)
            except TimeoutError as error:
                raise TimeoutError(f"Not all is ready after {READY_TIMEOUT:.0f} s; see {self._logs}.") from error
            yield self._running

    async def _start_server(self, stack: AsyncExitStack) -> ServerConfig:
        nats = self._config.nats
        config = ServerConfig(
            store=self._state / "nats",
            port=nats.port or free_port(),
            monitor_port=nats.monitor_port or free_port(),
            name=f"fusion-{new_id()[-8:].lower()}",
            sync=nats.sync,
        )
        ready = asyncio.Event()
        child = Child("nats-server", server_run(config, self._logs / "nats-server.log", ready.set))
        await stack.enter_async_context(supervising(child))
        await ready.wait()
        return config

    def _light(self) -> tuple[Child, ...]:
        return (
            self._child("historian", ["actors", "historian"]),
            self._child("core", ["actors", "core"]),
            # Without documents everything else goes on.
            self._child("rag", ["actors", "rag"], is_essential=False),
        )

    def _model(self, entry: ModelEntry) -> Child:
        return self._child(f"model/{entry.id}", ["actors", "model", "--model", entry.id], model=entry.id)

    def _slots(self, standby: Standby) -> tuple[Child, ...]:
        return tuple(self._slot(number, standby) for number in range(1, self._config.actors.slots + 1))

    def _slot(self, number: int, standby: Standby) -> Child:
        async def start(program: Program) -> Spawned:
            # Without heavy models nobody waits for an import.
            has_heavy = any(entry.tier == HEAVY for entry in self._config.models)
            return await (standby.take(str(number)) if has_heavy else spawn(program))

        return self._child(f"slot-{number}", ["actors", "slot", "--slot", str(number)], start=start)

    def _standby(self) -> Program:
        return self._program("slot", ["actors", "slot", "--standby"])

    def _edge(self, port: int) -> Child:
        return self._child("edge", ["http_edge", "--port", str(port)])

    def _child(
        self,
        name: str,
        module: list[str],
        model: str | None = None,
        *,
        start: Start = spawn,
        is_essential: bool = True,
    ) -> Child:
        self._names.append(name)

        async def on_end(instance: str, why: str, is_drained: bool) -> None:
            del self._current[name]
            await self._tell_ended(instance, model or self._model_of(instance), None if is_drained else why)
            if not is_essential:
                self._stumbled.add(name)
            if name in self._leaving:
                self._leaving.discard(name)
                if name not in self._names:
                    self._supervision.remove(name)

        async def run() -> None:
            while True:
                await run_process(program, start)

        program = self._program(name, module, on_end)
        is_slot = start is not spawn
        # One model that cannot run must not take the others down.
        return Child(
            name,
            run,
            essential=is_essential and model is None and not is_slot,
            # What ends a slot again and again is a model that it was given; with the next one it may live.
            restarts=Restarts(most=None) if is_slot else Restarts(),
            on_given_up=lambda: self._given_up.add(name),
        )

    def _program(self, name: str, module: list[str], on_end: OnEnd | None = None) -> Program:
        config = ["--config", str(self._options.config_path)] if self._options.config_path else []
        return Program(
            name=name,
            argv=lambda instance: [sys.executable, "-m", *module, "--instance", instance, *config],
            environment=self._environment(),
            log_path=self._logs / f"{_log_name(name)}.log",
            on_spawn=lambda instance, pid: self._note(name, instance, pid),
            on_end=on_end,
            drain=self._options.edge_drain + 5 if name == "edge" else 2 * self._config.actors.drain_seconds + 5,
        )

    def _environment(self) -> dict[str, str]:
        assert self._running is not None  # noqa: S101 - set before any child is made
        own = {
            "FUSION_NATS_URL": self._bus_config.url,
            "FUSION_NATS_MONITOR_URL": self._bus_config.monitor_url,
            "FUSION_STATE_DIR": str(self._state),
            PARENT_PIPE: "1",
            # Kernels compiled on the way are loaded from here; the shared /tmp is for everyone to write.
            "TMPDIR": str(self._temporary()),
        }
        return os.environ | self._options.environment | own

    def _temporary(self) -> Path:
        folder = self._state / "tmp"
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def _note(self, name: str, instance: str, pid: int) -> None:
        self._current[name] = (instance, pid)
        assert self._running is not None  # noqa: S101 - set before any child is made
        pids = {name: pid for name, (_, pid) in self._current.items()}
        self._running = replace(self._running, processes=pids)
        write_running(self._state, self._running)

    def _pid_of(self, instance: str) -> int | None:
        return next((pid for name, pid in self._current.values() if name == instance), None)

    def _model_of(self, instance: str) -> str | None:
        """Return the model that a slot has last said to have."""
        assert self._bus is not None  # noqa: S101 - children start after the bus
        return next((beat.model for beat in self._bus.presence.instances if beat.instance == instance), None)

    async def _tell_ended(self, instance: str, model: str | None, why: str | None) -> None:
        """Say for the dead what it cannot: streams it was writing end at once with an error.

        `why` is None for an end that was asked for.
        """
        assert self._bus is not None  # noqa: S101 - children start after the bus
        now = datetime.now(UTC)
        beat = Heartbeat(instance=instance, role="", state="down", pid=0, at=now.timestamp(), model=model)
        await say(self._bus, beat)
        if model is not None and why is not None:
            lost = ModelLost(id=new_id(), at=now, model=model, instance=instance, why=why)
            try:
                await EventLog(self._bus).record(lost)
            except BusError as error:
                log.warning("model.lost.unrecorded", error=str(error))

    async def reload(self) -> None:
        """Have the catalogue read again."""
        assert self._bus is not None  # noqa: S101 - it is started first
        try:
            changes = await self._bus.ask(RELOAD_CATALOGUE(), ReloadCatalogue())
        except BusError as error:
            log.error("catalogue.not_reloaded", error=str(error))
        else:
            log.warning("catalogue.reloaded", **asdict(changes))

    async def _on_reloaded(self, _: Msg) -> None:
        """Start the warm models that the catalogue has by now, and have those end that it does not have any more."""
        try:
            config = configuration(self._options.config_path, os.environ | self._options.environment)
        except SettingsError as error:
            log.error("catalogue.unreadable", error=str(error))
            return
        before, after = _warm(self._config), _warm(config)
        self._config = config
        for model in after.keys() - before.keys():
            self._add(after[model])
        for model in before.keys() - after.keys():
            self._remove(f"model/{model}")

    def _add(self, entry: ModelEntry) -> None:
        name = f"model/{entry.id}"
        if name in self._leaving:
            self._names.append(name)  # It is started again when it has ended.
        else:
            self._supervision.add(self._model(entry))

    def _remove(self, name: str) -> None:
        self._names.remove(name)
        if name in self._given_up:
            self._given_up.remove(name)
        else:
            self._leaving.add(name)

    async def _tell_leaving(self) -> None:
        """Have those end that the catalogue does not have any more. Told until they do: while one starts it is deaf."""
        assert self._bus is not None  # noqa: S101 - children start after the bus
        order = Drain(seconds=self._config.actors.unload_seconds, why="the catalogue does not have it any more")
        for instance, _pid in [self._current[name] for name in self._leaving & self._current.keys()]:
            with suppress(NatsError):
                await self._bus.publish(fill(DRAIN, instance), order)

    async def _tell_failed(self) -> None:
        assert self._bus is not None  # noqa: S101 - children start after the bus
        for name in filter(lambda name: name.startswith("model/"), self._given_up):
            model = name.removeprefix("model/")
            at = datetime.now(UTC).timestamp()
            await say(
                self._bus, Heartbeat(instance=f"failed-{model}", role="", state="failed", pid=0, at=at, model=model)
            )

    def _all_ready(self, beats: tuple[Heartbeat, ...]) -> bool:
        ready = {beat.instance for beat in beats if beat.state in {"ready", "empty"}}
        waiting = [
            name
            for name in self._names
            if self._current.get(name, ("", 0))[0] not in ready and name not in self._given_up | self._stumbled
        ]
        total = len(self._names)
        self._on_progress(waiting[0] if waiting else "", total - len(waiting), total)
        return not waiting


def _log_name(name: str) -> str:
    """Return the name of the process' log: a slot does not know its number when its log begins, so they share one."""
    return re.sub(r"^slot-\d+$", "slot", name).replace("/", "-")


def _warm(config: Configuration) -> dict[str, ModelEntry]:
    return {entry.id: entry for entry in config.models if entry.tier < HEAVY}


@asynccontextmanager
async def _periodically(act: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
    async def repeat() -> None:
        while True:
            await act()
            await asyncio.sleep(PERIOD)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(repeat())
        try:
            yield
        finally:
            task.cancel()
