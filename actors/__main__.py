"""Runs the actors of one process: `python -m actors historian`, `core` or `model --model ID`."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

import structlog

from actors.catalogue import ModelFilesError, adapter_folder, draft_folder, model_folder
from actors.configuration import Configuration, configuration
from actors.engines.blas import prepare_blas
from actors.supervisor import Child, GaveUpError, supervise_all, supervising
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import LostError
from bus.events import EventLog
from bus.heartbeat import beating, plain_beat
from bus.ids import new_id
from bus.messages.catalogue import ModelEntry
from bus.process import configure_logs, end_with_parent, run_until_stopped
from bus.settings import SettingsError
from bus.streams import StreamError, ensure_streams

log = structlog.get_logger()


def main() -> None:
    """Read the arguments and run until SIGTERM."""
    args = _arguments()
    end_with_parent()
    configure_logs(args.role, level=os.environ.get("LOG_LEVEL", "info"))
    try:
        config = configuration(args.config, os.environ)
        run_until_stopped(lambda: _run(args, config))
    except (SettingsError, ModelFilesError, LostError, StreamError) as error:
        log.error("process.failed", error=str(error))
        sys.exit(1)
    except BaseExceptionGroup as group:
        foreseen, other = group.split((GaveUpError, ModelFilesError))
        if foreseen is None or other is not None:
            raise
        log.error("process.given_up", error=str(foreseen.exceptions))
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m actors", description=__doc__)
    parser.add_argument("role", choices=("historian", "core", "model"))
    parser.add_argument("--model", help="the id of a model in the catalogue")
    parser.add_argument("--instance", help="the name of this instance; made up when not given")
    parser.add_argument("--config", type=Path, help="the configuration file")
    args = parser.parse_args()
    args.instance = args.instance or f"{args.role}-{new_id()[-8:].lower()}"
    return args


async def _run(args: argparse.Namespace, config: Configuration) -> None:
    if args.role == "model":
        prepare_blas()  # before anything imports mlx
    async with Bus.connect(args.role, config.bus) as bus:
        await ensure_streams(bus.nc, config.actors.job_ttl_days)
        if args.role == "model":
            await _model(bus, config, config.entry(args.model or ""), args.instance)
        else:
            children = _historian if args.role == "historian" else _core
            async with beating(bus, plain_beat(args.instance, args.role)):
                await supervise_all(*children(bus, config, args.instance))


def _historian(bus: Bus, config: Configuration, instance: str) -> tuple[Child, ...]:
    from actors import historian  # noqa: PLC0415 - only its own process needs DuckDB

    path = config.bus.state / "history.duckdb"
    return (historian.child(bus, path, config.actors.job_ttl_days, instance),)


def _core(bus: Bus, config: Configuration, instance: str) -> tuple[Child, ...]:
    from actors import jobs, models, responses  # noqa: PLC0415 - only its own process needs them

    blobs = Blobs(config.bus.blobs)
    return (
        jobs.child(bus, blobs, config.models, config.actors.job_ttl_days, instance),
        responses.child(bus, instance),
        models.child(bus, config.models, instance),
    )


async def _model(bus: Bus, config: Configuration, entry: ModelEntry, instance: str) -> None:
    from actors import host, recorder  # noqa: PLC0415 - only its own process needs them
    from actors.capabilities import ModelFiles, capability  # noqa: PLC0415 - the same

    recording = recorder.Recorder(EventLog(bus))
    model, draft, adapter = await asyncio.to_thread(
        lambda: (model_folder(entry), draft_folder(entry), adapter_folder(entry))
    )
    files = ModelFiles(model=model, draft=draft, adapter=adapter, state=config.bus.state)
    part = capability(entry, files, config.actors)
    hosted = host.Host(bus, entry, part, config.actors, instance)
    async with supervising(recorder.child(recording)):
        # Not restarted in here: nobody knows in which state a crash leaves mlx, so it ends the process.
        await hosted.run(recording, Blobs(config.bus.blobs))


if __name__ == "__main__":
    main()
