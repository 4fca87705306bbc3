"""`fusion models list`, `show`, `load` and `unload`, and `fusion ps`, as a user runs them."""

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support import tiny_models
from tests.support.cli import fusion, home, on_terminal
from tests.support.processes import Fusion, fusion_up

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODELS = """
actors: {{slots: 1, min_residency: 0, model_folders: ["{folder}"]}}
models:
  - {{id: fusion-toy, path: "embedded:fusion-toy", kind: chat, aliases: [toy]}}
  - {{id: local/heavy, path: "{folder}/tiny", kind: chat, tier: 2, quantisation: 4bit, ttl: 600}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Fusion]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("tiny", "someone/other"):
        tiny_models.llama(folder / "shelf" / name)
    config = MODELS.format(folder=folder / "shelf")
    async with fusion_up(folder, config, home(folder)) as up:
        yield up


@pytest.fixture
def here(running: Fusion) -> tuple[str, str]:
    return ("--state-dir", str(running.state))


async def test_a_heavy_model_is_loaded_listed_and_unloaded(here: tuple[str, str]) -> None:
    assert rows((await fusion("models", "list", *here)).out)["local/heavy"][:3] == ["unloaded", "2", "chat"]

    loaded = await fusion("models", "load", "local/heavy", *here)
    assert loaded.status == 0
    assert re.fullmatch(r"local/heavy is loaded after \d+\.\d s; memory \d+ MB\n", loaded.out)
    assert set(loaded.err.splitlines()) <= {"local/heavy waiting", "local/heavy loading"}
    assert loaded.err
    assert loaded.err.replace("\n", "").isprintable()
    again = await fusion("models", "load", "local/heavy", *here)
    assert again.out.startswith("local/heavy is loaded after ")
    assert set(again.err.splitlines()) <= {"local/heavy ready"}

    ps = rows((await fusion("ps", *here)).out)
    assert set(ps) == {"fusion-toy", "local/heavy"}
    state, memory, unit, running, waiting, leases, until, slot, instance = ps["local/heavy"]
    assert (state, unit, running, waiting, leases, slot) == ("ready", "MB", "0/32", "0/100", "0", "1")
    assert float(memory) > 10
    assert re.fullmatch(r"\d\d:\d\d:\d\d", until)
    assert instance.startswith("slot-")

    unloaded = await fusion("models", "unload", "local/heavy", *here)
    assert re.fullmatch(r"local/heavy is unloaded after \d+\.\d s; \d+ MB are free again\n", unloaded.out)
    assert set(rows((await fusion("ps", *here)).out)) == {"fusion-toy"}


async def test_a_model_that_lies_on_the_machine_is_added_and_taken_out_again(here: tuple[str, str]) -> None:
    other = "someone/other"
    assert rows((await fusion("models", "list", "--available", *here)).out)[other][:3] == ["available", "2", "chat"]

    words = ("--path", other, "--ttl", "60", "--context-length", "128", "--priority", "low")
    loaded = await fusion("models", "load", other, *words, *here)
    card = json.loads((await fusion("models", "show", other, "--json", *here)).out)
    assert (loaded.status, card["state"], card["ttl"], card["priority"]) == (0, "ready", 60, "low")
    assert card["context_length"] == 128
    refused = await fusion("models", "rm", other, *here)
    assert (refused.status, refused.err) == (1, f"fusion: The model '{other}' is loaded; unload it first.\n")

    await fusion("models", "unload", other, *here)
    removed = await fusion("models", "rm", other, *here)
    assert (removed.status, removed.out) == (0, f"{other} is removed\n")
    assert other not in rows((await fusion("models", "list", *here)).out)


async def test_loading_on_a_terminal_is_told_in_one_line(here: tuple[str, str]) -> None:
    sent = await on_terminal("models", "load", "local/heavy", *here, environment={})

    assert re.search(r"\rlocal/heavy (waiting|loading) \(\d+ s\)", sent)
    assert sent.endswith("\r")
    assert "\n" not in sent


async def test_models_are_shown_to_people_and_to_machines(here: tuple[str, str]) -> None:
    listed = json.loads((await fusion("models", "list", "--json", *here)).out)
    card = json.loads((await fusion("models", "show", "toy", "--json", *here)).out)
    shown = (await fusion("models", "show", "toy", *here)).out

    assert [each["id"] for each in listed] == ["fusion-toy", "local/heavy"]
    assert (card["id"], card["family"], card["context_length"]) == ("fusion-toy", "qwen3", 1024)
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in shown.splitlines())
    assert (lines["id"], lines["aliases"], lines["context length"]) == ("fusion-toy", "toy", "1024")
    assert (lines["pinned"], lines["error"]) == ("no", "–")
    assert lines["size"].endswith(f"MB ({card['size_bytes']})")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "nobody"), "The model 'nobody' does not exist."),
        (("load", "nobody"), "The model 'nobody' does not exist."),
        (("unload", "fusion-toy"), "The model 'fusion-toy' is of tier 1, which stays loaded."),
        (("rm", "fusion-toy", "--files", "--yes"), "stands in the configuration"),
        (("load", "fusion-toy", "--ttl", "-1"), "(in 'ttl')"),
    ],
)
async def test_what_is_refused_is_told_in_a_line(here: tuple[str, str], words: tuple[str, ...], told: str) -> None:
    refused = await fusion("models", *words, *here)

    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith("fusion: ")
    assert told in refused.err
    assert refused.err.count("\n") == 1


async def test_without_fusion_it_is_said_how_to_start_one(tmp_path: Path) -> None:
    asked = await fusion("models", "list", "--state-dir", str(tmp_path))

    assert asked.status == 1
    assert asked.err == f"fusion: No Fusion is running on {tmp_path}; `fusion up` starts one.\n"


def rows(printed: str) -> dict[str, list[str]]:
    """Return the words after the first of each line below the head, by the first."""
    return {words[0]: words[1:] for words in map(str.split, printed.splitlines()[1:])}
