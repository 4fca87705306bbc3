"""How `fusion` ends when something is wrong: one line on stderr, the right status, and never a traceback."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from actors import historian
from actors.engines.echo import EchoEngine
from bus.client import Bus
from bus.errors import LostError
from bus.messages.history import HistoryQuery
from bus.subjects import LIST_HISTORY
from tests.support.cli import Printed, fusion, started
from tests.support.jobs import living
from tests.support.models_owner import catalogue
from tests.support.nats import until_it
from tests.support.responses import responding
from tests.support.stack import CHAT_MODEL, EMBED_MODEL


def one_line(printed: Printed, status: int = 1) -> str:
    """Return the only line of a command that has failed as it should."""
    assert (printed.status, printed.out) == (status, ""), printed
    lines = printed.err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


async def history_is_told(bus: Bus) -> bool:
    try:
        await bus.ask(LIST_HISTORY(), HistoryQuery())
    except LostError:
        return False
    return True


@pytest.mark.parametrize(
    "words", [("history", "usage", "--since", "soon"), ("jobs", "list", "--created-after", "soon")], ids=["age", "time"]
)
async def test_moment_that_is_none_is_told_with_what_is_one(words: tuple[str, ...]) -> None:
    printed = await fusion(*words)

    assert printed.status == 2
    assert "'soon' is no " in printed.err
    assert "_" not in printed.err.splitlines()[-1].replace("--created_after", "")


@pytest.mark.parametrize("seconds", ["soon", "inf", "nan"])
async def test_time_to_live_that_is_no_number_of_seconds_is_told(seconds: str) -> None:
    printed = await fusion("models", "load", "a-model", "--ttl", seconds)

    assert printed.status == 2
    assert printed.err.endswith(f"argument --ttl: '{seconds}' is no number of seconds\n")


async def test_server_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    nowhere = {"FUSION_NATS_URL": "nats://127.0.0.1:1", "FUSION_STATE_DIR": str(tmp_path)}

    told = one_line(await fusion("ps", environment=nowhere))

    assert told.startswith("fusion: No nats-server answers at nats://127.0.0.1:1: ")


@pytest.mark.parametrize("content", ["", '{"pid": 1}'])
async def test_note_of_a_running_fusion_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "running.json").write_text(content)

    told = one_line(await fusion("status", "--state-dir", str(tmp_path)))

    assert told == f"fusion: No Fusion is running on {tmp_path}; `fusion up` starts one."


async def test_state_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    told = one_line(await fusion("status", "--state-dir", str(tmp_path / "file")))

    assert told == f"fusion: {tmp_path / 'file'} cannot be read: Not a directory."


async def test_level_of_logs_that_is_none_is_named_and_an_empty_one_is_not_set(tmp_path: Path) -> None:
    loud = await fusion("up", environment={"LOG_LEVEL": "loud"})
    empty = await fusion("status", "--state-dir", str(tmp_path), environment={"LOG_LEVEL": ""})

    assert one_line(loud).startswith("fusion: The variable LOG_LEVEL: ")
    assert one_line(empty).startswith("fusion: No Fusion is running")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("nats: {port: 99999}", "nats.port: Expected `int` <= 65535 (got 99999)."),
        ("edge: {host: no.such.host.invalid}", "The host no.such.host.invalid cannot be listened on "),
        ("bus: {url: 'nats://127.0.0.1:1'}", "No nats-server answers at nats://127.0.0.1:1: "),
    ],
    ids=["port", "host", "server"],
)
async def test_start_that_cannot_be_tells_why_in_one_line(tmp_path: Path, config: str, told: str) -> None:
    (tmp_path / "fusion.yaml").write_text(config)
    words = ("up", "--embedded", "--port", "0", *(() if "nats" in config else ("--nats-port", "0")))

    printed = await fusion(*words, "--config", str(tmp_path / "fusion.yaml"), "--state-dir", str(tmp_path / "state"))

    assert told in one_line(printed)


async def test_part_alone_needs_to_be_told_of_a_server() -> None:
    told = one_line(await fusion("run", "historian"))

    assert "FUSION_NATS_URL" in told


async def test_what_asks_and_is_refused_ends_with_one_line(nats_url: str, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"messages": []}, "priority": "high"')
    here = {"FUSION_NATS_URL": nats_url, "FUSION_STATE_DIR": str(tmp_path)}
    async with responding(nats_url, tmp_path, EchoEngine()) as edge, catalogue(edge.bus):
        unknown = await fusion("chat", "--model", "nope", "Hello", environment=here)
        embedding = await fusion("chat", "--model", EMBED_MODEL, "Hello", environment=here)
        broken = await fusion("jobs", "submit", CHAT_MODEL, "chat", str(tmp_path / "input.json"), environment=here)

    assert one_line(unknown) == "fusion: The model 'nope' does not exist."
    assert one_line(embedding) == f"fusion: The model '{EMBED_MODEL}' is for embeddings, not for chat."
    assert one_line(broken).startswith(f"fusion: {tmp_path / 'input.json'} is not JSON: ")


async def test_history_that_cannot_be_written_is_told(nats_url: str, tmp_path: Path) -> None:
    here = {"FUSION_NATS_URL": nats_url, "FUSION_STATE_DIR": str(tmp_path)}
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        kept = historian.child(edge.bus, tmp_path / "history.duckdb", edge.blobs, 7, "historian-1")
        async with living(kept.run()):
            await until_it(lambda: history_is_told(edge.bus))
            printed = await fusion("history", "export", "jobs", str(tmp_path / "no" / "file"), environment=here)

    told = one_line(printed)
    assert told == f"fusion: {tmp_path / 'no' / 'file'} cannot be written: No such file or directory"


async def test_reader_that_leaves_ends_a_command_without_a_word(nats_url: str, tmp_path: Path) -> None:
    here = {"FUSION_NATS_URL": nats_url, "FUSION_STATE_DIR": str(tmp_path), "PYTHONUNBUFFERED": ""}
    async with responding(nats_url, tmp_path, EchoEngine()) as edge, catalogue(edge.bus):
        reading, writing = os.pipe()
        os.close(reading)
        async with (
            started("models", "list", environment=here, stdout=writing) as listing,
            started("doctor", environment=here | {"PYTHONUNBUFFERED": "1"}, stdout=writing) as doctor,
        ):
            os.close(writing)
            said = [(await each.communicate())[1] for each in (listing, doctor)]

    assert said == [b"", b""]
    assert [listing.returncode, doctor.returncode] == [141, 141]


async def test_interrupt_while_it_is_being_imported_ends_a_command_without_a_traceback(nats_url: str) -> None:
    # It does not end by itself, so that it is not over before a machine under load comes to interrupt it.
    environment = {"FUSION_NATS_URL": nats_url, "PYTHONPROFILEIMPORTTIME": "1"}
    async with started("jobs", "watch", environment=environment) as process, asyncio.timeout(60):
        assert process.stderr is not None
        while b"bus.errors" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


async def test_interrupt_while_an_import_runs_a_text_ends_a_command_as_any_other(tmp_path: Path) -> None:
    # As dataclasses and named tuples do when they are made.
    (tmp_path / "msgspec.py").write_text('exec("import signal; signal.raise_signal(signal.SIGINT)")')

    printed = await fusion("ps", environment={"PYTHONPATH": str(tmp_path)})

    assert (printed.status, printed.out, printed.err) == (130, "", "")
