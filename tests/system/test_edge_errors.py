"""Every error comes in OpenAI's envelope, and names what is at fault."""

import asyncio
import io
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from aiohttp import ClientResponse
from openai import InternalServerError
from structlog.testing import capture_logs

from actors.engines.echo import EchoEmbeddings, EchoEngine
from bus.client import settled
from bus.errors import Code, RefusedError
from bus.messages.chat import ChatChunk, ChatRequest
from http_edge.config import EdgeConfig
from http_edge.errors import STATUSES
from tests.support.stack import (
    CHAT_MODEL,
    EMBED_MODEL,
    catalogue,
    chat_actor,
    chat_body,
    embeddings_actor,
    stack,
)

ENVELOPE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "additionalProperties": False,
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "minLength": 5},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}

CHAT = "/v1/chat/completions"
COMPLETE = "/v1/completions"
EMBED = "/v1/embeddings"
JOBS = "/api/mcp/jobs"

JOB = {"model_id": CHAT_MODEL, "operation": "chat", "input": {}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x"}}
TEXT = {"model": CHAT_MODEL, "prompt": "hello"}
VECTOR = {"model": EMBED_MODEL, "input": "hello"}

INVALID = "invalid_request"
UNSUPPORTED = "unsupported_parameter"

BAD_BODIES: list[tuple[str, Any, str, str | None]] = [
    (CHAT, b"{", INVALID, None),
    (CHAT, b"", INVALID, None),
    (CHAT, b"\xff\xfe", INVALID, None),
    (CHAT, b"[]", INVALID, None),
    (CHAT, b'{"metadata":' + b"[" * 100_000, INVALID, None),
    (CHAT, {"messages": []}, INVALID, "model"),
    (CHAT, {"model": CHAT_MODEL}, INVALID, "messages"),
    (CHAT, chat_body(model=""), INVALID, "model"),
    (CHAT, chat_body(model="x" * 5000), INVALID, "model"),
    (CHAT, chat_body(messages=[]), INVALID, "messages"),
    (CHAT, chat_body(messages="hi"), INVALID, "messages"),
    (CHAT, chat_body(messages=[{"role": "wizard", "content": "x"}]), INVALID, "messages[0].role"),
    (
        CHAT,
        chat_body(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        INVALID,
        "messages[0].content[0].type",
    ),
    (
        CHAT,
        chat_body(messages=[{"role": "assistant", "tool_calls": [{"id": "c"}]}]),
        INVALID,
        "messages[0].tool_calls[0].function",
    ),
    (
        CHAT,
        chat_body(messages=[{"role": "assistant", "function_call": {"name": "f"}}]),
        UNSUPPORTED,
        "messages[0].function_call",
    ),
    (
        CHAT,
        chat_body(messages=[{"role": "user", "content": "x", "mood": 1}]),
        UNSUPPORTED,
        "messages[0].mood",
    ),
    (CHAT, chat_body(temperature=3), INVALID, "temperature"),
    (CHAT, chat_body(temperature="hot"), INVALID, "temperature"),
    (CHAT, chat_body(top_p=-1), INVALID, "top_p"),
    (CHAT, chat_body(max_tokens=0), INVALID, "max_tokens"),
    (CHAT, chat_body(max_tokens=1, max_completion_tokens=2), INVALID, "max_tokens"),
    (CHAT, chat_body(max_completion_tokens=0), INVALID, "max_completion_tokens"),
    (CHAT, chat_body(stop=["a", "b", "c", "d", "e"]), INVALID, "stop"),
    (CHAT, chat_body(stop=7), INVALID, "stop"),
    (CHAT, chat_body(logit_bias={"hello": 1}), INVALID, "logit_bias"),
    (CHAT, chat_body(seed=2**64), INVALID, "seed"),
    (CHAT, chat_body(seed=2**63 - 1, n=2, stream=True), INVALID, "seed"),
    (CHAT, chat_body(stream="yes"), INVALID, "stream"),
    (CHAT, chat_body(stream_options={"include_usage": True}), INVALID, "stream_options"),
    (
        CHAT,
        chat_body(stream=True, stream_options={"include_obfuscation": True}),
        UNSUPPORTED,
        "stream_options.include_obfuscation",
    ),
    (CHAT, chat_body(n=9), INVALID, "n"),
    (CHAT, chat_body(n=True), INVALID, "n"),
    (COMPLETE, TEXT | {"prompt": ["a"] * 33, "n": 2}, INVALID, "n"),
    (CHAT, chat_body(response_format={"type": "yaml"}), INVALID, "response_format.type"),
    (CHAT, chat_body(response_format={"type": "json_schema"}), INVALID, "response_format.json_schema"),
    (CHAT, chat_body(response_format=NO_SCHEMA), INVALID, "response_format.json_schema.schema"),
    (CHAT, chat_body(response_format={"type": "json_object"}, guided_regex="a"), INVALID, "guided_regex"),
    (CHAT, chat_body(guided_choice=[]), INVALID, "guided_choice"),
    (CHAT, chat_body(guided_json='{"type'), INVALID, "guided_json"),
    (CHAT, chat_body(tools=[{"type": "function"}]), INVALID, "tools[0].function"),
    (CHAT, chat_body(tools=[{"type": "custom", "custom": {"name": "f"}}]), INVALID, "tools[0].type"),
    (CHAT, chat_body(tools=[{"type": "function", "function": {"name": ""}}]), INVALID, "tools[0].function.name"),
    (
        CHAT,
        chat_body(tools=[{"type": "function", "function": {"name": "f", "strict": 1}}]),
        INVALID,
        "tools[0].function.strict",
    ),
    (CHAT, chat_body(functions=[{"name": "f"}]), UNSUPPORTED, "functions"),
    (CHAT, chat_body(tool_choice="required"), INVALID, "tool_choice"),
    (CHAT, chat_body(tools=TOOLS, tool_choice="always"), INVALID, "tool_choice"),
    (CHAT, chat_body(tools=TOOLS, tool_choice={"type": "custom"}), INVALID, "tool_choice.type"),
    (CHAT, chat_body(tools=TOOLS, tool_choice={"type": "function", "name": "f"}), UNSUPPORTED, "tool_choice.name"),
    (
        CHAT,
        chat_body(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}}),
        INVALID,
        "tool_choice",
    ),
    (CHAT, chat_body(chat_template_kwargs={"mood": 1}), UNSUPPORTED, "chat_template_kwargs.mood"),
    (CHAT, chat_body(response_format={"type": "json_object"}), UNSUPPORTED, "response_format"),
    (CHAT, chat_body(logprobs=True), UNSUPPORTED, "top_logprobs"),
    (CHAT, chat_body(logprobs=1), INVALID, "logprobs"),
    (CHAT, chat_body(logprobs=True, top_logprobs=21), INVALID, "top_logprobs"),
    (CHAT, chat_body(top_logprobs=2), INVALID, "top_logprobs"),
    (CHAT, chat_body(modalities=["text", "audio"]), UNSUPPORTED, "modalities"),
    (CHAT, chat_body(reasoning_effort="huge"), INVALID, "reasoning_effort"),
    (CHAT, chat_body(colour="red"), UNSUPPORTED, "colour"),
    (CHAT, chat_body("x" * 1_200_000), "too_large", None),
    (COMPLETE, TEXT | {"echo": True, "logprobs": 0}, UNSUPPORTED, "echo"),
    (COMPLETE, TEXT | {"echo": True, "prompt": [7]}, INVALID, "prompt"),
    (COMPLETE, TEXT | {"max_tokens": 0}, INVALID, "max_tokens"),
    (COMPLETE, TEXT | {"max_completion_tokens": 5}, UNSUPPORTED, "max_completion_tokens"),
    (COMPLETE, TEXT | {"best_of": 2}, UNSUPPORTED, "best_of"),
    (COMPLETE, TEXT | {"best_of": 1, "n": 2}, UNSUPPORTED, "best_of"),
    (COMPLETE, TEXT | {"guided_regex": "a", "guided_choice": ["b"]}, INVALID, "guided_choice"),
    (COMPLETE, TEXT | {"response_format": {"type": "json_object"}}, UNSUPPORTED, "response_format"),
    (COMPLETE, TEXT | {"suffix": "end"}, UNSUPPORTED, "suffix"),
    (COMPLETE, TEXT | {"logprobs": 6}, INVALID, "logprobs"),
    (COMPLETE, TEXT | {"prompt": []}, INVALID, "prompt"),
    (COMPLETE, TEXT | {"prompt": None}, INVALID, "prompt"),
    (COMPLETE, TEXT | {"prompt": ["a"] * 65}, INVALID, "prompt"),
    (COMPLETE, TEXT | {"prompt": ["a", 1]}, INVALID, "prompt"),
    (COMPLETE, TEXT | {"prompt": [1.5]}, INVALID, "prompt[0]"),
    (EMBED, VECTOR | {"input": []}, INVALID, "input"),
    (EMBED, VECTOR | {"input": ""}, INVALID, "input"),
    (EMBED, VECTOR | {"input": [["a"]]}, INVALID, "input[0][0]"),
    (EMBED, VECTOR | {"dimensions": 4}, UNSUPPORTED, "dimensions"),
    (EMBED, VECTOR | {"encoding_format": "hex"}, INVALID, "encoding_format"),
    (EMBED, VECTOR | {"input": "word " * 600}, "context_length_exceeded", "input"),
    (JOBS, JOB | {"operation": "dance"}, INVALID, "operation"),
    (JOBS, JOB | {"input": "hello"}, INVALID, "input"),
    (JOBS, JOB | {"priority": "urgent"}, INVALID, "priority"),
    (JOBS, JOB | {"metadata": []}, INVALID, "metadata"),
    (JOBS, JOB | {"callback_url": "http://x"}, UNSUPPORTED, "callback_url"),
    (JOBS, JOB | {"model": CHAT_MODEL}, UNSUPPORTED, "model"),
]


async def _error(response: ClientResponse) -> dict[str, Any]:
    assert response.content_type == "application/json"
    assert response.headers["x-request-id"]
    content = json.loads(await response.read())
    jsonschema.validate(content, ENVELOPE)
    error: dict[str, Any] = content["error"]
    return error


def test_every_code_of_the_bus_has_a_status() -> None:
    assert set(STATUSES) == set(get_args(Code))


@pytest.mark.parametrize("path", [CHAT, COMPLETE, EMBED, JOBS])
async def test_bad_body_is_a_bad_request_that_names_the_field(nats_url: str, tmp_path: Path, path: str) -> None:
    async with (
        stack(nats_url, tmp_path) as edge,
        chat_actor(edge.bus, EchoEngine()),
        embeddings_actor(edge.bus, EchoEmbeddings()),
    ):
        for _, body, code, param in [bad for bad in BAD_BODIES if bad[0] == path]:
            content = json.dumps(body).encode() if isinstance(body, dict) else body
            headers = {"Content-Type": "application/json"}
            async with edge.http.post(path, data=io.BytesIO(content), headers=headers) as response:
                error = await _error(response)

            told = (response.status, error["code"], error["param"], error["type"])
            status = 413 if code == "too_large" else 400
            assert told == (status, code, param, "invalid_request_error"), str(content)[:200]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_body_that_is_not_said_to_be_json_is_refused(nats_url: str, tmp_path: Path, kind: str) -> None:
    async with stack(nats_url, tmp_path) as edge:
        content = json.dumps(chat_body()).encode()
        async with edge.http.post(CHAT, data=content, headers={"Content-Type": kind}) as response:
            error = await _error(response)

        assert response.status == 400
        assert "application/json" in error["message"]


async def test_body_over_the_limit_is_too_large(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path, EdgeConfig(port=0, max_body_bytes=1024)) as edge:
        async with edge.http.post(CHAT, json=chat_body("x" * 2000)) as response:
            error = await _error(response)

        assert response.status == 413
        assert error["code"] == "too_large"


class _StrictEngine(EchoEngine):
    """Takes no tool."""

    def prepare(self, request: ChatRequest) -> Any:
        raise RefusedError("invalid_request", f"No {request.tools[0].name}.", param="tools[0].parameters")


@pytest.mark.parametrize(
    ("path", "tool", "field"),
    [
        (CHAT, TOOLS[0], "tools[0].function.parameters"),
        ("/api/chat", TOOLS[0], "tools[0].function.parameters"),
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
            unknown_error = await _error(unknown)
        async with edge.http.put(CHAT, json={}) as wrong:
            wrong_error = await _error(wrong)

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
                error = await _error(response)

            assert (response.status, error["code"]) == (503, "unavailable")
            assert response.headers["Retry-After"] == "1"


async def test_answer_of_another_type_is_a_broken_stream(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:

        async def answer_nonsense(msg: Any) -> None:
            await msg.respond(b"not json")

        await edge.bus.nc.subscribe("fusion.models.list", cb=answer_nonsense)
        await settled(edge.bus.nc)
        async with edge.http.get("/v1/models") as response:
            error = await _error(response)

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
        async with asyncio.timeout(20), edge.http.post(CHAT, json=chat_body(), headers=headers):
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
