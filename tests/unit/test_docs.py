"""The docs name all that the code has."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from aiohttp import web
from nats.aio.client import Client

from actors.config import VARIABLES as ACTORS_VARIABLES
from actors.config import ActorsConfig, ModelEntry
from actors.configuration import EMBEDDED, configuration
from bus import frames, streams, subjects
from bus.blobs import Blobs
from bus.client import Bus
from bus.config import BUS_VARIABLES, NATS_VARIABLES, BusConfig, NatsConfig
from bus.errors import Code
from bus.messages import chat, embeddings, history, jobs, models, presence, responses, tokens
from bus.process import PARENT_PIPE
from bus.settings import read_file, settings
from bus.subjects import Subject
from cli.__main__ import COMMANDS
from eventlog.events import Event, FailureReason
from http_edge import ollama_options
from http_edge.app import make_app
from http_edge.config import VARIABLES as EDGE_VARIABLES
from http_edge.config import EdgeConfig
from http_edge.errors import STATUSES
from http_edge.responses import body as responses_body
from http_edge.routes import chat as chat_routes
from http_edge.routes import completions, ollama_chat, ollama_embed, ollama_generate, ollama_models
from http_edge.routes import embeddings as embeddings_routes
from http_edge.routes import jobs as job_routes
from http_edge.routes import messages as message_routes
from http_edge.routes import tokens as token_routes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SAMPLE = DOCS / "fusion.sample.yaml"
PAGES = sorted(DOCS.rglob("*.md"))
DECISIONS = sorted((DOCS / "adr").glob("*.md"))

TABLES: dict[str, tuple[type[msgspec.Struct], dict[str, str]]] = {
    "bus": (BusConfig, BUS_VARIABLES),
    "nats": (NatsConfig, NATS_VARIABLES),
    "actors": (ActorsConfig, ACTORS_VARIABLES),
    "edge": (EdgeConfig, EDGE_VARIABLES),
    "models": (ModelEntry, {}),
}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Return what stands below `heading`, up to the next heading that is not below it."""
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, heading
    level = len(heading) - len(heading.lstrip("#"))
    return re.split(rf"\n#{{1,{level}}} ", rest, maxsplit=1)[0]


def unnamed(names: Iterator[str] | list[str], text: str) -> list[str]:
    return [name for name in names if f"`{name}`" not in text]


def routes() -> list[tuple[str, str, str]]:
    """Return method, path and file of every route."""
    app = make_app(Bus(Client(), "docs", BusConfig()), EdgeConfig(), Blobs(Path("unused")))
    return [
        (route.method, str(route.resource.canonical), str(route.handler.__module__).replace(".", "/") + ".py")
        for route in app.router.routes()
        if isinstance(route.resource, web.Resource) and route.method != "HEAD"
    ]


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command, and of every action of those that have some."""
    found: dict[str, argparse.ArgumentParser] = {}

    def collect(subparsers: Any, before: str) -> None:
        for name, parser in subparsers.choices.items():
            deeper = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
            for each in deeper:
                collect(each, f"{before} {name}")
            if not deeper:
                found[f"{before} {name}"] = parser

    commands = argparse.ArgumentParser().add_subparsers()
    for command in COMMANDS:
        command.add(commands)
    collect(commands, "fusion")
    return found


def shown(field: msgspec.structs.FieldInfo) -> str:
    """Return the default as the docs have it: as it would stand in the file."""
    default: Any = field.default
    if field.required:
        return "–"
    if default in (None, ""):
        text = '""' if default == "" else "null"
    elif isinstance(default, bool):
        text = str(default).lower()
    elif isinstance(default, int | float):
        text = str(int(default)) if default == int(default) else str(default)
    elif isinstance(default, tuple):
        text = f"[{', '.join(default)}]"
    else:
        text = str(default)
    return f"`{text}`"


def test_every_subject_is_documented_with_its_types() -> None:
    known = [each for each in vars(subjects).values() if isinstance(each, Subject)]
    text = page("subjects.md")

    rows = [f"| `{each.pattern}`" for each in known]
    types = [kind.__name__ for each in known for kind in (each.request, each.reply)]

    assert set(known) == set(subjects.REQUESTS)
    assert [row for row in rows if row not in text] == []
    assert unnamed(types, text) == []


def test_every_pattern_without_a_reply_is_documented() -> None:
    patterns = [each for each in vars(subjects).values() if isinstance(each, str) and each.startswith("fusion.")]

    assert len(patterns) >= 10
    assert unnamed([*patterns, subjects.wake_of("x").replace(".x.", ".<model>.")], page("subjects.md")) == []


@pytest.mark.parametrize("module", [chat, embeddings, history, jobs, models, presence, responses, tokens])
def test_every_field_of_a_message_is_documented(module: Any) -> None:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    own = [kind for kind in kinds if kind.__module__ == module.__name__]
    text = page("subjects.md")

    fields = {field for kind in own for field in kind.__struct_fields__}

    # In prose as `field`, perhaps with its default, or in an example.
    assert sorted(field for field in fields if not re.search(rf'[`"]{field}[`" ]', text)) == []


def test_every_header_of_an_answer_is_documented() -> None:
    headers = (frames.END, frames.COUNT, frames.REQUEST_ID, frames.ERROR, frames.ERROR_CODE, frames.STATUS)

    assert [header for header in headers if header not in page("subjects.md")] == []


def test_every_stream_setting_is_documented() -> None:
    text = page("subjects.md")

    for heading, wanted in (
        ("### `EVENTS`", streams.events_stream(7)),
        ("### `JOBS`", streams.jobs_stream()),
        ("### Consumers of `JOBS`", streams.queue_consumer("name", "subject")),
    ):
        assert unnamed(list(wanted), section(text, heading)) == []


def test_every_event_is_documented_with_its_fields() -> None:
    text = page("events.md")
    common = {"id", "at", "v"}

    for kind in get_args(Event):
        own = section(text, f"### `{kind.__struct_config__.tag}`")
        assert unnamed([name for name in kind.__struct_fields__ if name not in common], own) == []
        example = re.search(r"```json\n(.*)\n```", own)
        assert example, kind
        msgspec.json.decode(example[1], type=kind)
    assert unnamed(["type", *common, *get_args(FailureReason)], text) == []


def test_every_route_is_documented() -> None:
    found = [f"{method} {path}" for method, path, _ in routes()]

    assert "POST /v1/chat/completions" in found
    assert unnamed(found, page("http.md")) == []


def test_every_route_stands_in_the_table_of_endpoints_with_its_file() -> None:
    table = section(page("architecture.md"), "## Endpoints")
    rows = {f"| `{path}` | {method} | `{file}` |" for method, path, file in routes()}

    assert {row for row in rows if row not in table} == set()
    assert table.count("\n| `/") == len(rows)


def test_every_file_of_the_code_map_exists_and_every_module_is_in_it() -> None:
    code_map = section(page("architecture.md"), "## Code map")
    packages = ("actors", "bus", "cli", "eventlog", "http_edge")
    named = set(re.findall(r"`([\w./]+\.py)`", code_map))

    modules = {path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*.py")}

    assert [name for name in named if "/" in name and not (ROOT / name).exists()] == []
    assert {
        str(path)
        for path in modules
        if not {str(path), path.name} & named
        and path.name != "__init__.py"
        and path.parent not in {Path("bus/messages"), Path("actors/engines")}
    } == set()


def assert_documented(kind: type[msgspec.Struct], module: Any, own: str) -> None:
    assert unnamed(list(kind.__struct_fields__), own) == []
    assert unnamed(list(module.NEUTRAL), own) == []
    ignored = re.search(r"\nIgnored: (.*)\.\n", own)
    assert set(re.findall(r"`(\w+)`", ignored[1] if ignored else "")) == set(getattr(module, "IGNORED", ()))


def test_every_field_of_a_body_is_documented() -> None:
    text = page("http.md")

    for module, heading in (
        (chat_routes, "### `POST /v1/chat/completions`"),
        (completions, "### `POST /v1/completions`"),
        (responses_body, "### `POST /v1/responses`"),
        (message_routes, "### `POST /v1/messages`"),
        (embeddings_routes, "### `POST /v1/embeddings`"),
        (job_routes, "### `POST /v1/jobs`"),
        (token_routes, "### `POST /v1/tokenize`"),
        (ollama_chat, "### `POST /api/chat`"),
        (ollama_generate, "### `POST /api/generate`"),
        (ollama_embed, "### `POST /api/embed`"),
        (ollama_models, "### `POST /api/show`"),
    ):
        assert_documented(module.Body, module, section(text, heading))
    assert_documented(ollama_options.Options, ollama_options, section(text, "#### Options"))


def test_every_code_is_documented_with_its_status() -> None:
    table = section(page("http.md"), "## Errors")

    rows = [f"| `{code}` | {STATUSES[code][0]} |" for code in get_args(Code)]

    assert [row for row in rows if row not in table] == []


@pytest.mark.parametrize("table", TABLES)
def test_every_setting_is_documented_with_its_default_and_variable(table: str) -> None:
    kind, variables = TABLES[table]
    text = section(page("configuration.md"), f"## `{table}`")
    of_field = {field: f"`{variable}`" for variable, field in variables.items()}

    rows = [
        f"| `{field.encode_name}` | {shown(field)} | {of_field.get(field.name, '–')} |"
        for field in msgspec.structs.fields(kind)
    ]

    assert [row for row in rows if row not in text] == []


def test_every_other_variable_is_documented() -> None:
    of_server = re.findall(r"\$(FUSION_\w+)", (ROOT / "nats-server.conf").read_text(encoding="utf-8"))
    text = page("configuration.md")

    assert of_server
    assert unnamed([*of_server, PARENT_PIPE, "LOG_LEVEL"], text) == []
    assert f"{EMBEDDED}=1" in text


def test_the_sample_configuration_loads_and_has_every_setting_at_its_default() -> None:
    loaded = configuration(SAMPLE, {})
    edge = settings(EdgeConfig, read_file(SAMPLE).get("edge"), {}, EDGE_VARIABLES, where="sample")
    tables = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))

    assert (loaded.bus, loaded.nats, loaded.actors, edge) == (BusConfig(), NatsConfig(), ActorsConfig(), EdgeConfig())
    assert [entry.id for entry in loaded.models] == ["all-MiniLM-L6-v2", "fusion-toy"]
    for name, (kind, _) in TABLES.items():
        said = tables[name] if name != "models" else {key: 0 for row in tables[name] for key in row}
        assert set(said) == set(kind.__struct_fields__), name


def test_every_command_is_documented_with_its_options() -> None:
    table = section(page("operations.md"), "## Commands")
    rows = re.findall(r"\n\| `(fusion [\w ]+)` \|(.*)", table)

    options = {
        name: {option for option in parser._option_string_actions if option.startswith("--")} - {"--help"}
        for name, parser in parsers().items()
    }

    assert {name: set(re.findall(r"`(--[\w-]+)`", row)) for name, row in rows} == options


def test_every_relative_link_leads_somewhere() -> None:
    broken = [
        (file.name, target)
        for file in (ROOT / "README.md", *PAGES)
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8"))
        if "://" not in target and not (file.parent / target).exists()
    ]

    assert broken == []


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)]+)\)", page("index.md")))

    assert {str(path.relative_to(DOCS)) for path in PAGES} - {"index.md"} <= linked


def test_every_decision_has_its_parts() -> None:
    parts = (
        "\nStatus: ",
        "\nDate: ",
        "\n## Context\n",
        "\n## Decision\n",
        "\n## Consequences\n",
        "\n## Alternatives\n",
    )

    for path in DECISIONS:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]} ")
        assert [part for part in parts if part not in text] == []


def test_every_decision_that_the_code_names_exists() -> None:
    files = [ROOT / "nats-server.conf", ROOT / "pyproject.toml"]
    files += [
        path for package in ("actors", "bus", "cli", "eventlog", "http_edge") for path in (ROOT / package).rglob("*.py")
    ]

    named = {number for path in files for number in re.findall(r"adr/(\d{4})", path.read_text(encoding="utf-8"))}

    assert named
    assert named <= {path.name[:4] for path in DECISIONS}


def test_the_readme_begins_with_the_two_commands_that_are_checked() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tools = "python3 -m venv .tools && .tools/bin/pip install -q uv rust-just && .tools/bin/just"

    commands = re.findall(r"```sh\n(.*?)\n```", text, re.DOTALL)

    assert commands[:2] == [f"{tools} demo", f"{tools} setup test"]
    assert "(docs/architecture.md)" in section(text, "## Fusion Architecture")
