"""The docs name every route, field and code of the edge."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from aiohttp import web
from nats.aio.client import Client

from bus.blobs import Blobs
from bus.client import Bus
from bus.config import BusConfig
from bus.errors import Code
from http_edge import ollama_options, rag, rag_documents
from http_edge.app import make_app
from http_edge.config import EdgeConfig
from http_edge.errors import STATUSES
from http_edge.responses import body as responses
from http_edge.routes import (
    batches,
    chat,
    completions,
    embed,
    embed_models,
    embeddings,
    jobs,
    loading,
    messages,
    models,
    ollama_chat,
    ollama_embed,
    ollama_generate,
    ollama_models,
    rag_collections,
    rag_eval,
    rag_ingest,
    rag_query,
    rag_search,
    rerank,
    subscriptions,
    tokens,
    webhooks,
)
from http_edge.routes import rag_documents as routes_of_documents
from tests.support.docs import page, section, unnamed


def routes() -> list[tuple[str, str, str]]:
    """Return method, path and file of every route."""
    app = make_app(Bus(Client(), "docs", BusConfig()), EdgeConfig(), Blobs(Path("unused")), Blobs(Path("unused")))
    return [
        (route.method, str(route.resource.canonical), str(route.handler.__module__).replace(".", "/") + ".py")
        for route in app.router.routes()
        if isinstance(route.resource, web.Resource) and route.method != "HEAD"
    ]


def test_every_route_is_documented() -> None:
    found = [f"{method} {path}" for method, path, _ in routes()]

    assert "POST /v1/chat/completions" in found
    assert unnamed(found, page("http.md")) == []


def test_every_route_stands_in_the_table_of_endpoints_with_its_file() -> None:
    table = section(page("architecture.md"), "## Endpoints")
    rows = {f"| `{path}` | {method} | `{file}` |" for method, path, file in routes()}

    assert {row for row in rows if row not in table} == set()
    assert table.count("\n| `/") == len(rows)


def undocumented(kind: type[msgspec.Struct], module: Any, own: str) -> set[str]:
    """Return the fields that `own` does not name, or not as neutral or ignored as they are, and those that are gone."""
    ignored = re.search(r"\nIgnored: (.*)\.\n", own)
    named = set(re.findall(r"`(\w+)`", ignored[1] if ignored else ""))
    unknown = unnamed([*kind.__struct_fields__, *module.NEUTRAL], own)
    return set(unknown) | (named ^ set(getattr(module, "IGNORED", ())))


@pytest.mark.parametrize(
    ("module", "name", "heading"),
    [
        (chat, "http.md", "## `POST /v1/chat/completions`"),
        (completions, "http.md", "## `POST /v1/completions`"),
        (responses, "http.md", "## `POST /v1/responses`"),
        (embeddings, "http.md", "## `POST /v1/embeddings`"),
        (rerank, "http.md", "## `POST /v1/rerank`"),
        (tokens, "http.md", "## `POST /v1/tokenize`"),
        (jobs, "http.md", "## `POST /v1/jobs`"),
        (webhooks, "webhooks.md", "### `POST /api/mcp/webhook`"),
        (subscriptions, "webhooks.md", "### `POST /api/subscriptions`"),
        (batches, "batches.md", "## `POST /v1/batches`"),
        (messages, "anthropic.md", "## `POST /v1/messages`"),
        (ollama_chat, "ollama.md", "## `POST /api/chat`"),
        (ollama_generate, "ollama.md", "## `POST /api/generate`"),
        (ollama_embed, "ollama.md", "## `POST /api/embed`"),
        (ollama_models, "ollama.md", "## `POST /api/show`"),
    ],
)
def test_every_field_of_a_body_is_documented(module: Any, name: str, heading: str) -> None:
    assert undocumented(module.Body, module, section(page(name), heading)) == set()


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        (models.Model, "## `GET /v1/models`"),
        (models.Listing, "## `GET /v1/models`"),
        (loading.Body, "## `POST /v1/models/load`"),
        (loading.NamedBody, "## `POST /v1/models/load`"),
        (loading.UnloadBody, "## `DELETE /v1/models/{id}/unload`"),
    ],
)
def test_every_field_about_models_is_documented(kind: type[msgspec.Struct], heading: str) -> None:
    own = section(page("http.md"), heading)

    assert [name for name in kind.__struct_fields__ if not re.search(rf"`\??{name}(=true)?`", own)] == []


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        (embed.TextBody, "## `POST /embed/text`"),
        (embed.ImageBody, "## `POST /embed/image`"),
        (embed.MultimodalBody, "## `POST /embed/multimodal`"),
        (embed.VideoBody, "## `POST /embed/video`"),
        (embed.Vectors, "## What is asked and answered"),
        (embed_models.EmbedModel, "## `GET /embed/models`"),
    ],
)
def test_every_field_of_embed_is_documented(kind: type[msgspec.Struct], heading: str) -> None:
    own = section(page("embeddings.md"), heading)

    assert [name for name in kind.__struct_fields__ if not re.search(rf"[`\"]{name}[`\"]", own)] == []


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        (rag_documents.FilesForm, "## `POST /api/rag/ingest`"),
        (rag_documents.DocumentsBody, "## `POST /api/rag/ingest`"),
        (rag_documents.ListedDocument, "## `POST /api/rag/ingest`"),
        (rag_ingest.Accepted, "## `POST /api/rag/ingest`"),
        (rag_ingest.Stored, "## `POST /api/rag/ingest`"),
        (rag_search.Body, "## `POST /api/rag/search`"),
        (rag_search.Found, "## `POST /api/rag/search`"),
        (rag.Source, "## `POST /api/rag/search`"),
        (rag_query.Answered, "## `POST /api/rag/query`"),
        (routes_of_documents.Page, "## Documents"),
        (routes_of_documents.Document, "## Documents"),
        (routes_of_documents.Documents, "## Documents"),
        (routes_of_documents.Put, "## Documents"),
        (routes_of_documents.DeletedByFilter, "## Documents"),
        (rag_documents.DocumentBody, "## Documents"),
        (rag_collections.Comparison, "## Collections"),
        (rag_collections.Health, "## Collections"),
        (rag_eval.Body, "## `POST /api/rag/eval`"),
        (rag_eval.JudgedQuery, "## `POST /api/rag/eval`"),
        (rag_eval.Quality, "## `POST /api/rag/eval`"),
        (rag_collections.Stats, "## Short names"),
    ],
)
def test_every_field_of_rag_is_documented(kind: type[msgspec.Struct], heading: str) -> None:
    own = section(page("rag_http.md"), heading)

    assert [name for name in kind.__struct_fields__ if not re.search(rf"[`\"]{name}[`\"]", own)] == []


def test_a_query_has_the_fields_of_a_search_and_those_that_are_documented() -> None:
    fields = [each for each in rag_query.Body.__struct_fields__ if each not in rag_search.Body.__struct_fields__]

    assert unnamed(fields, section(page("rag_http.md"), "## `POST /api/rag/query`")) == []


def test_every_option_of_ollama_is_documented() -> None:
    own = section(page("ollama.md"), "## Options")

    assert undocumented(ollama_options.Options, ollama_options, own) == set()


def test_every_code_is_documented_with_its_status() -> None:
    table = section(page("http.md"), "## Errors")

    rows = [f"| `{code}` | {STATUSES[code][0]} |" for code in get_args(Code)]

    assert [row for row in rows if row not in table] == []
