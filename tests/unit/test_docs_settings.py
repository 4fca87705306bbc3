"""The docs name every setting, variable and command."""

import argparse
import re
from typing import Any

import msgspec
import pytest
import yaml

from actors.config import VARIABLES as ACTORS_VARIABLES
from actors.config import ActorsConfig
from actors.configuration import EMBEDDED, configuration
from actors.rag.config import RAG_VARIABLES, RagConfig
from bus.config import BUS_VARIABLES, NATS_VARIABLES, BusConfig, NatsConfig
from bus.messages.catalogue import ModelEntry
from bus.process import PARENT_PIPE
from bus.settings import read_file, settings
from cli.commands import COMMANDS
from http_edge.config import VARIABLES as EDGE_VARIABLES
from http_edge.config import EdgeConfig
from tests.support.docs import DOCS, ROOT, page, section, unnamed

SAMPLE = DOCS / "fusion.sample.yaml"

TABLES: dict[str, tuple[type[msgspec.Struct], dict[str, str]]] = {
    "bus": (BusConfig, BUS_VARIABLES),
    "nats": (NatsConfig, NATS_VARIABLES),
    "actors": (ActorsConfig, ACTORS_VARIABLES),
    "rag": (RagConfig, RAG_VARIABLES),
    "edge": (EdgeConfig, EDGE_VARIABLES),
    "models": (ModelEntry, {}),
}


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

    assert (loaded.bus, loaded.nats, loaded.actors) == (BusConfig(), NatsConfig(), ActorsConfig())
    assert (loaded.rag, edge) == (RagConfig(), EdgeConfig())
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
