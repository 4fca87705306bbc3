"""Anthropic's official client before an edge."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anthropic import AsyncAnthropic

from tests.support.stack import CHAT_MODEL, Stack, chat_actor, stack


def asked(text: str = "hello big world", **more: Any) -> dict[str, Any]:
    """Return valid arguments for the client, which are a valid body too."""
    return {"model": CHAT_MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": text}]} | more


@asynccontextmanager
async def client_of(edge: Stack) -> AsyncGenerator[AsyncAnthropic]:
    """Yield the client."""
    async with AsyncAnthropic(base_url=edge.url, api_key="none", max_retries=0) as client:
        yield client


@asynccontextmanager
async def talking(nats_url: str, folder: Path, engine: Any) -> AsyncGenerator[AsyncAnthropic]:
    """Serve `engine`, and yield the client."""
    async with stack(nats_url, folder) as edge, chat_actor(edge.bus, engine), client_of(edge) as client:
        yield client
