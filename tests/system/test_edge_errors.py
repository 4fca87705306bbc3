"""Every error comes in OpenAI's envelope, and names what is at fault."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, get_args

import pytest
from openai import InternalServerError
from structlog.testing import capture_logs

from actors.engines.echo import EchoEngine
from bus.client import settled
from bus.errors import Code, RefusedError
from bus.messages.chat import ChatChunk, ChatRequest
from http_edge.config import EdgeConfig
from http_edge.errors import STATUSES
from tests.support.envelope import error_of
from tests.support.models_owner import catalogue
from tests.support.stack import CHAT_MODEL, EMBED_MODEL, chat_actor, chat_body, stack

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
JOBS = "/api/mcp/jobs"
JOB = {"model_id": CHAT_MODEL, "operation": "chat", "input": {}}
TOOL = {"type": "function", "function": {"name": "f"}}
VECTOR = {"model": EMBED_MODEL, "input": "hello"}


def test_every_code_of_the_bus_has_a_status() -> None:
    assert set(STATUSES) == set(get_args(Code))


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_body_that_is_not_said_to_be_json_is_refused(nats_url: str, tmp_path: Path, kind: str) -> None:
    async with stack(nats_url, tmp_path) as edge:
        content = json.dumps(chat_body()).encode()
        async with edge.http.post(CHAT, data=content, headers={"Content-Type": kind}) as response:
            error = await error_of(response)

        assert response.status == 400
        assert "application/json" in error["message"]


async def test_body_over_the_limit_is_too_large(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path, EdgeConfig(port=0, max_body_bytes=1024)) as edge:
        async with edge.http.post(CHAT, json=chat_body("x" * 2000)) as response:
            error = await error_of(response)

        assert response.status == 413
        assert error["code"] == "too_large"


class _StrictEngine(EchoEngine):
    """Takes no tool."""

    def prepare(self, request: ChatRequest) -> Any:
        raise RefusedError("invalid_request", f"No {request.tools[0].name}.", param="tools[0].parameters")


@pytest.mark.parametrize(
    ("path", "tool", "field"),
    [
        (CHAT, TOOL, "tools[0].function.parameters"),
        ("/api/chat", TOOL, "tools[0].function.parameters"),
        ("/v1/responses", {"type": "function", "name": "f"}, "tools[0].parameters"),
        ("/v1/messages", {"name": "f", "input_schema": {}}, "tools[0].input_schema"),
    ],
)
async def test_tool_that_a_model_refuses_is_named_as_its_api_has_it(
    nats_url: str, tmp_path: Path, path: str, tool: dict[str, Any], field: str
) -> None:
    body = chat_body(tools=[tool])
    if path == "/v1/responses":
        body["input"] = body.pop("messages")
    if path == "/v1/messages":
        body["max_tokens"] = 1
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, _StrictEngine()):
        async with edge.http.post(path, json=body) as response:
            told = await response.text()

        assert (response.status, told.count(field)) == (400, 1), told


async def test_unknown_path_and_wrong_method_are_told_apart(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:
        async with edge.http.get("/v1/nothing") as unknown:
            unknown_error = await error_of(unknown)
        async with edge.http.put(CHAT, json={}) as wrong:
            wrong_error = await error_of(wrong)

        assert (unknown.status, unknown_error["code"]) == (404, "unknown_url")
        assert (wrong.status, wrong_error["code"]) == (405, "method_not_allowed")
        assert wrong.headers["Allow"] == "POST"


async def test_unknown_path_is_told_as_its_api_tells_errors(nats_url: str, tmp_path: Path) -> None:
    told = []
    async with stack(nats_url, tmp_path) as edge:
        for path in ("/v1/messages/batches", "/api/pull", "/api/chat/", "/api/mcp/tools"):
            async with edge.http.post(path, json={}) as response:
                told.append((response.status, await response.json()))

        assert {status for status, _ in told} == {404}
        anthropic, *ollama, ours = (answer["error"] for _, answer in told)
        assert anthropic["type"] == "not_found_error"
        assert ollama == ["Unknown URL (POST /api/pull).", "Unknown URL (POST /api/chat/)."]
        assert ours["code"] == "unknown_url"


async def test_no_server_on_the_bus_is_unavailable(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:
        for path, body in ((CHAT, chat_body()), (CHAT, chat_body(stream=True)), (EMBED, VECTOR), (JOBS, JOB)):
            async with edge.http.post(path, json=body) as response:
                error = await error_of(response)

            assert (response.status, error["code"]) == (503, "unavailable")
            assert response.headers["Retry-After"] == "1"


async def test_answer_of_another_type_is_a_broken_stream(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:

        async def answer_nonsense(msg: Any) -> None:
            await msg.respond(b"not json")

        await edge.bus.nc.subscribe("fusion.models.list", cb=answer_nonsense)
        await settled(edge.bus.nc)
        async with edge.http.get("/v1/models") as response:
            error = await error_of(response)

        assert (response.status, error["code"], error["type"]) == (502, "stream_broken", "server_error")


async def test_request_is_one_line_in_the_log_without_what_was_said(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        with capture_logs() as lines:
            async with edge.http.post(CHAT, json=chat_body("secret"), headers={"x-request-id": "r"}) as response:
                await response.read()

        [line] = [line for line in lines if line["event"] == "http.request"]
        assert isinstance(line.pop("ms"), float)
        assert line == {
            "event": "http.request",
            "log_level": "info",
            "method": "POST",
            "path": CHAT,
            "status": 200,
            "request_id": "r",
        }
        assert "secret" not in str(lines)


@pytest.mark.parametrize("given", ["é", "x" * 129, ""])
async def test_request_id_that_cannot_be_kept_is_replaced(nats_url: str, tmp_path: Path, given: str) -> None:
    async with stack(nats_url, tmp_path) as edge:
        async with edge.http.get("/livez", headers={"x-request-id": given}) as response:
            request_id = response.headers["x-request-id"]

        assert request_id.startswith("req-")


async def test_trace_and_request_id_reach_the_actor(nats_url: str, tmp_path: Path) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    heard: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus):

        async def on_request(msg: Any) -> None:
            heard.set_result(msg.headers)
            await msg.respond(b"{}")

        await edge.bus.nc.subscribe("fusion.chat.*", cb=on_request)
        await settled(edge.bus.nc)
        headers = {"traceparent": traceparent, "x-request-id": "given-1"}
        async with asyncio.timeout(60), edge.http.post(CHAT, json=chat_body(), headers=headers):
            told = await heard

        assert told["traceparent"] == traceparent
        assert told["Fusion-Request-Id"] == "given-1"


class BreakingEngine:
    """Says two words and breaks at once, so that the failure has come before the words are read."""

    def prepare(self, request: ChatRequest) -> ChatRequest:
        return request

    async def generate(self, _: ChatRequest) -> AsyncGenerator[ChatChunk]:
        yield ChatChunk(text="one")
        yield ChatChunk(text=" two")
        raise RefusedError("internal_error", "That is all.")


async def test_what_was_said_before_a_failure_is_told_before_it(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, BreakingEngine()):
        async with edge.http.post("/v1/chat/completions", json=chat_body(stream=True)) as response:
            lines = (await response.text()).split("\n\n")

    told = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [each["choices"][0]["delta"]["content"] for each in told[:-1]] == ["", "one", " two"]
    assert told[-1]["error"]["code"] == "internal_error"


class FullEngine:
    """Never has the memory for a request, and counts those that come."""

    def __init__(self) -> None:
        self.asked = 0

    def prepare(self, _: ChatRequest) -> ChatRequest:
        self.asked += 1
        raise RefusedError("insufficient_memory", "This request takes 9 bytes; there are 8.", param="messages")


@pytest.mark.parametrize("stream", [False, True])
async def test_client_does_not_ask_again_for_what_never_fits(nats_url: str, tmp_path: Path, stream: bool) -> None:
    engine = FullEngine()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        with pytest.raises(InternalServerError) as raised:
            await edge.openai.with_options(max_retries=2).chat.completions.create(**chat_body(stream=stream))

        assert (raised.value.status_code, raised.value.code) == (507, "insufficient_memory")
        assert engine.asked == 1
