"""`fusion up`: starts everything and serves until stopped."""

import argparse
import asyncio
import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Self

from tqdm import tqdm

from actors.catalogue import ModelFilesError, draft_folder, model_folder
from actors.configuration import EMBEDDED, Configuration, configuration
from actors.supervisor import GaveUpError
from bus.errors import LostError
from bus.messages.catalogue import HEAVY
from bus.process import configure_logs, run_until_stopped
from bus.server import ServerError
from bus.settings import SettingsError, read_file, settings
from bus.streams import StreamError
from cli.system import Options, System
from http_edge.config import VARIABLES as EDGE_VARIABLES
from http_edge.config import EdgeConfig

FAILURES = (SettingsError, ServerError, StreamError, LostError, ModelFilesError, TimeoutError, OSError)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("up", help="start everything and serve until stopped")
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of everything that starts the system."""
    parser.add_argument("--config", type=Path, help="the configuration file (YAML)")
    parser.add_argument("--state-dir", type=Path, help="where the log, the history and the blobs are kept")
    parser.add_argument("--port", type=int, help="the HTTP port; 0 picks a free one")
    parser.add_argument("--nats-port", type=int, help="the port of the child nats-server; 0 picks a free one")
    parser.add_argument("--embedded", action="store_true", help="serve only the models that come with Fusion")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    configure_logs("supervisor", level=os.environ.get("LOG_LEVEL") or "warning")
    try:
        config, options = prepared(args)
        _fetch(config)
        run_until_stopped(lambda: _serve(config, options))
    except FAILURES as error:
        print(f"fusion up: {error}", file=sys.stderr)
        return 1
    except BaseExceptionGroup as group:
        print(f"fusion up: {foreseen(group)}", file=sys.stderr)
        return 1
    return 0


def foreseen(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of the group, or raise it as it is when not all in it is what may happen to a user."""
    known, other = group.split((GaveUpError, *FAILURES))
    if known is None or other is not None:
        raise group
    return _leaf(known)


def _leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error inside a group of groups."""
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first


def prepared(args: argparse.Namespace) -> tuple[Configuration, Options]:
    """Return what the file, the environment and the command line say together. Raises `SettingsError`."""
    flags = {
        "FUSION_STATE_DIR": args.state_dir,
        "FUSION_NATS_SERVER_PORT": args.nats_port,
        "FUSION_PORT": args.port,
        EMBEDDED: "1" if args.embedded else None,
    }
    said = {name: str(value) for name, value in flags.items() if value is not None}
    environment = os.environ | said
    config = configuration(args.config, environment)
    table = read_file(args.config).get("edge")
    edge = settings(EdgeConfig, table, environment, EDGE_VARIABLES, where=f"{args.config or 'configuration'}: edge")
    _require_free(edge.host, edge.port, "--port")
    if not config.bus.url:
        _require_free("127.0.0.1", config.nats.port, "--nats-port")
    return config, Options(
        config_path=args.config,
        http_host=edge.host,
        http_port=edge.port,
        edge_drain=edge.drain_seconds,
        environment=said,
    )


def _require_free(host: str, port: int, flag: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise SettingsError(f"The host {host} cannot be listened on ({error.strerror}).") from error
            raise SettingsError(
                f"Port {port} on {host} is not free ({error.strerror}); {flag} takes another."
            ) from error


def _fetch(config: Configuration) -> None:
    """Bring the models' files here before anything starts: a download has a progress bar, a child has no terminal."""
    for entry in config.models:
        if entry.tier == HEAVY and not entry.preload:
            continue  # When it is asked for.
        model_folder(entry)
        draft_folder(entry)


async def _serve(config: Configuration, options: Options) -> None:
    with Progress() as progress:
        system = System(config, options, progress.show)
        async with system.started() as running:
            progress.close()
            models = ", ".join(entry.id for entry in config.models)
            print(f"Fusion is ready: {running.http_url}  (NATS {running.nats_url}; models {models})", flush=True)
            for name in sorted(system.given_up):
                print(f"{name} could not be started; see {config.bus.state / 'logs'}", file=sys.stderr)
            await _reloading(system)


async def _reloading(system: System) -> None:
    """Read the catalogue again at every SIGHUP, for ever."""
    hung_up = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up.set)
    while True:
        await hung_up.wait()
        hung_up.clear()
        await system.reload()


class Progress:
    """A bar over the processes that are ready."""

    def __init__(self) -> None:
        self._bar = tqdm(
            total=0, unit="process", bar_format="{desc:<32}{bar:24} {n_fmt}/{total_fmt}", leave=False, disable=None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, waiting: str, ready: int, total: int) -> None:
        """Show how far it is."""
        self._bar.total = total
        self._bar.n = ready
        self._bar.set_description_str(f"waiting for {waiting}" if waiting else "ready")

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
