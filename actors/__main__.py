"""Runs the actors of a process: `python -m actors historian`, `core`, `rag`, `model --model ID` or `slot --slot N`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from actors.catalogue import ModelFilesError, adapter_folder, draft_folder, model_folder
from actors.configuration import Configuration, configuration
from actors.engines.blas import prepare_blas
from actors.model_finder import ModelFinder
from actors.process import DRAINED, DrainedError
from actors.supervisor import Child, GaveUpError, supervise_all, supervising
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import LostError
from bus.events import EventLog
from bus.heartbeat import beating, plain_beat, say
from bus.ids import new_id
from bus.messages.catalogue import ModelEntry
from bus.process import configure_logs, end_with_parent, run_until_stopped
from bus.settings import SettingsError
from bus.streams import StreamError, ensure_streams

if TYPE_CHECKING:
    from actors.capabilities import Capability
    from actors.host import Host

log = structlog.get_logger()


def main() -> None:
    """Read the arguments and run until SIGTERM."""
    args = _arguments()
    told: Future[str] = Future()
    end_with_parent(told)
    configure_logs(args.role, level=os.environ.get("LOG_LEVEL") or "info")
    status = _status(args, told)
    if args.role in {"model", "slot"}:
        sys.stdout.flush()
        sys.stderr.flush()
        # One in a hundred would abort (rc 134) when the process takes mlx's threads apart, all closed as it is.
        os._exit(status)
    sys.exit(status)


def _status(args: argparse.Namespace, told: Future[str]) -> int:
    """Run, and return with which status to end."""
    try:
        config = configuration(args.config, os.environ)
        run_until_stopped(lambda: _run(args, config, told))
    except (SettingsError, ModelFilesError, LostError, StreamError) as error:
        log.error("process.failed", error=str(error))
        return 1
    except DrainedError:
        return DRAINED
    except BaseExceptionGroup as group:
        foreseen, other = group.split((GaveUpError, ModelFilesError))
        if foreseen is None or other is not None:
            raise
        log.error("process.given_up", error=str(foreseen.exceptions))
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m actors", description=__doc__)
    parser.add_argument("role", choices=("historian", "core", "rag", "model", "slot"))
    parser.add_argument("--model", help="the id of a model in the catalogue")
    parser.add_argument("--slot", type=int, default=1, help="the number of the heavy slot")
    parser.add_argument("--standby", action="store_true", help="wait until the parent says which slot it is")
    parser.add_argument("--instance", help="the name of this instance; made up when not given")
    parser.add_argument("--config", type=Path, help="the configuration file")
    args = parser.parse_args()
    args.instance = args.instance or f"{args.role}-{new_id()[-8:].lower()}"
    return args


async def _run(args: argparse.Namespace, config: Configuration, told: Future[str]) -> None:
    if args.role in {"model", "slot"}:
        prepare_blas()  # before anything imports mlx
    async with Bus.connect(args.role, config.bus) as bus:
        await ensure_streams(bus.nc, config.actors.job_ttl_days, config.actors.events_max_bytes)
        if args.role == "model":
            await _model(bus, config, config.entry(args.model or ""), args.instance)
        elif args.role == "slot":
            await _slot(bus, config, args, told)
        else:
            await _light(bus, config, args)


async def _light(bus: Bus, config: Configuration, args: argparse.Namespace) -> None:
    is_open = asyncio.Event()
    look = plain_beat(args.instance, args.role, is_ready=is_open.is_set)

    async def open_for_requests() -> None:
        is_open.set()
        await say(bus, await look())

    if args.role == "historian":
        is_open.set()
        children = _historian(bus, config, args)
    elif args.role == "rag":
        children = _rag(bus, config, args, open_for_requests)
    else:
        children = _core(bus, config, args, open_for_requests)
    async with beating(bus, look):
        await supervise_all(*children)


def _historian(bus: Bus, config: Configuration, args: argparse.Namespace) -> tuple[Child, ...]:
    from actors import historian  # noqa: PLC0415 - only its own process needs DuckDB

    path = config.bus.state / "history.duckdb"
    return (historian.child(bus, path, Blobs(config.bus.blobs), config.actors.job_ttl_days, args.instance),)


def _rag(
    bus: Bus, config: Configuration, args: argparse.Namespace, on_open: Callable[[], Awaitable[None]]
) -> tuple[Child, ...]:
    from actors.rag import absent  # noqa: PLC0415 - only its own process needs it

    if not absent.is_installed():
        return (absent.child(bus, args.instance, on_open),)
    from actors.rag import actor  # noqa: PLC0415 - only where its packages are

    return (actor.child(bus, config, args.instance, on_open),)


def _core(
    bus: Bus, config: Configuration, args: argparse.Namespace, on_open: Callable[[], Awaitable[None]]
) -> tuple[Child, ...]:
    # Only their own process needs them.
    from actors import batches, files, jobs, models, responses, subscriptions, sweeper, webhooks  # noqa: PLC0415

    def read() -> tuple[ModelEntry, ...]:
        return configuration(args.config, os.environ).models

    return (
        jobs.child(bus, Blobs(config.bus.blobs), ModelFinder(bus).find, config.actors, args.instance),
        files.child(bus, config.actors.job_ttl_days, args.instance),
        batches.child(bus, Blobs(config.bus.blobs), args.instance),
        responses.child(bus, args.instance),
        webhooks.child(bus, config.actors, config.bus.state, args.instance),
        subscriptions.child(bus, args.instance),
        sweeper.child(Blobs(config.bus.uploads, is_passing=True)),
        models.child(bus, read, config.bus.state, config.actors, args.instance, on_open),
    )


async def _model(bus: Bus, config: Configuration, entry: ModelEntry, instance: str) -> None:
    hosted = await _host(bus, config, entry, instance)
    await _serve(bus, config, hosted)
    raise DrainedError


async def _slot(bus: Bus, config: Configuration, args: argparse.Namespace, told: Future[str]) -> None:
    from actors import slot  # noqa: PLC0415 - only its own process needs it

    number, imported = args.slot, asyncio.Event()
    if args.standby:
        asyncio.get_running_loop().run_in_executor(None, slot.import_engine).add_done_callback(lambda _: imported.set())
        line: str = await asyncio.wrap_future(told)
        number = int(line)
    else:
        imported.set()

    async def host_of(entry: ModelEntry) -> "Host":
        await imported.wait()  # Importing it here as well would hold up the event loop.
        return await _host(bus, config, entry, args.instance, slot=number)

    one = slot.Slot(bus, args.instance, number, host_of=host_of, serve=lambda hosted: _serve(bus, config, hosted))
    await one.run()
    raise DrainedError


async def _host(bus: Bus, config: Configuration, entry: ModelEntry, instance: str, slot: int | None = None) -> "Host":
    from actors import host  # noqa: PLC0415 - only the process of a model needs it

    # In a thread: importing and fetching take seconds, in which a slot goes on saying that it is there.
    part = await asyncio.to_thread(_capability, config, entry)
    return host.Host(bus, entry, part, config.actors, instance, slot=slot)


def _capability(config: Configuration, entry: ModelEntry) -> "Capability":
    from actors.capabilities import ModelFiles, capability  # noqa: PLC0415 - only the process of a model needs it

    files = ModelFiles(
        model=model_folder(entry),
        draft=draft_folder(entry),
        adapter=adapter_folder(entry),
        state=config.bus.state,
        media=(Blobs(config.bus.uploads, is_passing=True), Blobs(config.bus.blobs)),
    )
    return capability(entry, files, config.actors)


async def _serve(bus: Bus, config: Configuration, hosted: "Host") -> None:
    from actors import recorder  # noqa: PLC0415 - only the process of a model needs it

    recording = recorder.Recorder(EventLog(bus))
    async with supervising(recorder.child(recording)):
        # Not restarted in here: nobody knows in which state a crash leaves mlx, so it ends the process.
        await hosted.run(recording, Blobs(config.bus.blobs))


if __name__ == "__main__":
    main()
