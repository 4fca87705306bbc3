"""The HTTP application: which routes there are, and how it is served."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from bus.blobs import Blobs
from bus.client import Bus
from http_edge.anthropic_answer import ANTHROPIC
from http_edge.config import EdgeConfig
from http_edge.context import BLOBS, BUS, CONFIG, RAG_BLOBS, UPLOADS
from http_edge.errors import FORMATS, OPENAI, RESPONSES
from http_edge.middleware import answered, name_request
from http_edge.ollama import OLLAMA
from http_edge.routes import (
    batches,
    chat,
    completions,
    embed,
    embed_models,
    embeddings,
    event_schema,
    files,
    health,
    history,
    job_events,
    jobs,
    loading,
    messages,
    models,
    ollama_chat,
    ollama_embed,
    ollama_generate,
    ollama_models,
    rag_collections,
    rag_documents,
    rag_eval,
    rag_ingest,
    rag_query,
    rag_search,
    rerank,
    responses,
    subscriptions,
    tokens,
    webhooks,
)

# Each with the format in which its API tells errors.
_CAPABILITIES = (
    (chat, OPENAI),
    (completions, OPENAI),
    (responses, RESPONSES),
    (messages, ANTHROPIC),
    (embeddings, OPENAI),
    (rerank, OPENAI),
    (embed, OPENAI),
    (embed_models, OPENAI),
    (tokens, OPENAI),
    (loading, OPENAI),
    (models, OPENAI),
    (jobs, OPENAI),
    (job_events, OPENAI),
    (webhooks, OPENAI),
    (subscriptions, OPENAI),
    (event_schema, OPENAI),
    (history, OPENAI),
    (files, OPENAI),
    (batches, OPENAI),
    (ollama_chat, OLLAMA),
    (ollama_generate, OLLAMA),
    (ollama_embed, OLLAMA),
    (ollama_models, OLLAMA),
    (rag_ingest, OPENAI),
    (rag_search, OPENAI),
    (rag_query, RESPONSES),
    (rag_collections, OPENAI),
    (rag_documents, OPENAI),
    (rag_eval, OPENAI),
    (health, OPENAI),
)

# Where an unknown path is not OpenAI's; a route is the folder of what is below it.
_FOLDERS = {"/api": OLLAMA, "/api/mcp": OPENAI, "/api/history": OPENAI, "/api/rag": OPENAI}


def make_app(bus: Bus, config: EdgeConfig, blobs: Blobs, uploads: Blobs) -> web.Application:
    """Return the application. It asks everything over `bus`; `uploads` are `is_passing`."""
    app = web.Application(middlewares=[answered], client_max_size=config.max_body_bytes)
    app[BUS] = bus
    app[CONFIG] = config
    app[BLOBS] = blobs
    app[UPLOADS] = uploads
    app[RAG_BLOBS] = Blobs(bus.config.rag_blobs)
    app.on_response_prepare.append(name_request)
    app[FORMATS] = _FOLDERS | {
        route.path: told_as for capability, told_as in _CAPABILITIES for route in capability.ROUTES
    }
    for capability, _ in _CAPABILITIES:
        app.add_routes(capability.ROUTES)
    return app


@asynccontextmanager
async def serving_http(bus: Bus, config: EdgeConfig, blobs: Blobs, uploads: Blobs) -> AsyncGenerator[tuple[str, int]]:
    """Serve until the block ends; give the real host and port.

    At the end no more is accepted, and running requests have `drain_seconds` to finish before they are
    cancelled. A client that leaves cancels its request.
    """
    runner = web.AppRunner(
        make_app(bus, config, blobs, uploads),
        handler_cancellation=True,
        access_log=None,
        # A small body may be a gigabyte that would hold up everyone else; `read_body` refuses it.
        auto_decompress=False,
        shutdown_timeout=config.drain_seconds,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port).start()
        host, port = runner.addresses[0][:2]
        yield host, port
    finally:
        await runner.cleanup()
