"""Requests that no client library would write: what comes is an answer all the same."""

import asyncio
import gzip
import json
from pathlib import Path

import msgspec
import pytest

from http_edge.config import EdgeConfig
from tests.support.stack import CHAT_MODEL, Stack, chat_body, stack

CHAT = "/v1/chat/completions"
COUNT = "/v1/messages/count_tokens"
JOB = json.dumps({"model_id": CHAT_MODEL, "operation": "chat", "input": {}}).encode()


async def _said(edge: Stack, path: str, body: bytes, *headers: bytes) -> tuple[int, bytes]:
    """Send these bytes and keep the connection; return the status and the body of the answer."""
    host, port = edge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = (f"POST {path} HTTP/1.1".encode(), b"Host: x", b"Content-Type: application/json", *headers, b"", body)
    writer.write(b"\r\n".join(lines))
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        content = await reader.readexactly(length)
    writer.close()
    return int(head.split()[1]), content


@pytest.mark.parametrize("name", [b"Idempotency-Key", b"baggage"])
async def test_header_that_is_not_text_does_no_harm(nats_url: str, tmp_path: Path, name: bytes) -> None:
    async with stack(nats_url, tmp_path) as edge:
        headers = (b"Content-Length: %d" % len(JOB), name + b": \xff\xfe")
        _, content = await _said(edge, "/v1/jobs", JOB, *headers)

        # As far as asking who is not there.
        assert msgspec.json.decode(content)["error"]["code"] == "unavailable"


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "nonsense"])
async def test_body_that_is_encoded_is_refused(nats_url: str, tmp_path: Path, encoding: str) -> None:
    async with stack(nats_url, tmp_path) as edge:
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        content = gzip.compress(json.dumps(chat_body()).encode())
        async with edge.http.post(COUNT, data=content, headers=headers) as response:
            answer = await response.json()

        assert (response.status, answer["type"]) == (400, "error")
        assert encoding in answer["error"]["message"]


async def test_body_that_does_not_end_is_given_up(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path, EdgeConfig(port=0, read_seconds=0.5)) as edge:
        status, content = await _said(edge, CHAT, b"{", b"Content-Length: 9")

        assert (status, msgspec.json.decode(content)["error"]["code"]) == (408, "request_timeout")
