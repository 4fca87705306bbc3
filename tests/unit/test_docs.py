"""The docs name all that the code has."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from bus import frames, streams, subjects
from bus.messages import (
    batches,
    chat,
    embeddings,
    files,
    history,
    jobs,
    models,
    presence,
    rag,
    rag_documents,
    responses,
    subscriptions,
    tokens,
    webhooks,
)
from bus.subjects import Subject
from eventlog.events import Event, FailureReason
from tests.support.docs import DOCS, ROOT, page, section, unnamed

PAGES = sorted(DOCS.rglob("*.md"))
DECISIONS = sorted((DOCS / "adr").glob("*.md"))


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


@pytest.mark.parametrize(
    "module",
    [
        *(batches, chat, embeddings, files, history, jobs, models, presence),
        *(rag, rag_documents, responses, subscriptions, tokens, webhooks),
    ],
)
def test_every_field_of_a_message_is_documented(module: Any) -> None:
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    own = [kind for kind in kinds if kind.__module__ == module.__name__]
    text = page("subjects.md")

    fields = {field for kind in own for field in kind.__struct_fields__}

    # In prose as `field`, perhaps with its default, or in an example.
    assert sorted(field for field in fields if not re.search(rf'[`"]{field}[`" ]', text)) == []


def test_every_header_is_documented() -> None:
    headers = (
        frames.END,
        frames.COUNT,
        frames.REQUEST_ID,
        frames.KEEP_ALIVE,
        frames.KEY,
        frames.ERROR,
        frames.ERROR_CODE,
        frames.STATUS,
    )

    assert [header for header in headers if header not in page("subjects.md")] == []


def test_every_stream_setting_is_documented() -> None:
    text = page("subjects.md")

    for heading, wanted in (
        ("### `EVENTS`", streams.events_stream(7)),
        ("### `JOBS`", streams.jobs_stream()),
        ("### `DELIVERIES`", streams.deliveries_stream()),
        ("### `RAG`", streams.rag_stream()),
        ("### `PROGRESS`", streams.progress_stream()),
        ("### `KV_fusion_webhooks`", streams.webhooks_bucket()),
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


def mapped(code_map: str) -> set[str]:
    """Return the modules that it names: a bare name lies in the folder with which its line, or its table, begins."""
    found, folder = set(), ""
    for line in code_map.splitlines():
        begin = re.match(r"(?:- |\| part \| files in )`([\w/]+/)`", line)
        folder = begin[1] if begin else folder
        for name in re.findall(r"`([\w./]+\.py)`", line):
            found.add(name if "/" in name else folder + name)
    return found


def test_the_code_map_has_exactly_the_modules_that_there_are() -> None:
    packages = ("actors", "bench", "bus", "cli", "eventlog", "http_edge", "models")
    modules = {path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*.py")}

    named = mapped(section(page("architecture.md"), "## Code map"))

    assert named == {str(path) for path in modules if path.name != "__init__.py"}


def anchors(text: str) -> set[str]:
    """Return what can stand behind `#` in a link to `text`: its headings, as GitHub writes them there."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_broken(file: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    linked = file.parent / path if path else file
    return not linked.exists() or (anchor != "" and anchor not in anchors(linked.read_text(encoding="utf-8")))


def test_every_relative_link_leads_somewhere() -> None:
    broken = [
        (file.name, target)
        for file in (ROOT / "README.md", *PAGES)
        for target in re.findall(r"\]\(([^)]+)\)", file.read_text(encoding="utf-8"))
        if "://" not in target and is_broken(file, target)
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
