"""Bodies that are not as they must be: the error names the field at fault."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from actors.engines.echo import EchoEmbeddings, EchoEngine
from tests.support.envelope import error_of
from tests.support.stack import CHAT_MODEL, EMBED_MODEL, chat_actor, chat_body, embeddings_actor, stack

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
    (CHAT, b'{"metadata":' + b"[" * 100_000, INVALID, "metadata"),
    (CHAT, {"messages": [{"role": "user", "content": "x"}]}, INVALID, "model"),
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
    (EMBED, VECTOR | {"input": [""]}, INVALID, "input[0]"),
    (EMBED, VECTOR | {"input": [["a"]]}, INVALID, "input[0][0]"),
    (EMBED, VECTOR | {"encoding_format": "hex"}, INVALID, "encoding_format"),
    (EMBED, VECTOR | {"input": "word " * 600}, "context_length_exceeded", "input"),
    (EMBED, VECTOR | {"input": [*["x" * 100_000] * 2, ""]}, INVALID, "input[2]"),
    (EMBED, VECTOR | {"dimensions": 0}, INVALID, "dimensions"),
    (EMBED, VECTOR | {"dimensions": 3}, INVALID, "dimensions"),
    (EMBED, VECTOR | {"dimensions": 9, "allow_lossy": True}, INVALID, "dimensions"),
    (EMBED, VECTOR | {"prompt": "x" * 1_100_000}, "too_large", "prompt"),
    (EMBED, VECTOR | {"input": ["a", "x" * 1_100_000]}, "too_large", "input[1]"),
    (EMBED, VECTOR | {"prompt_name": "passage"}, INVALID, "prompt_name"),
    (EMBED, VECTOR | {"prompt_name": "query", "prompt": "x"}, INVALID, "prompt_name"),
    (JOBS, JOB | {"operation": "dance"}, INVALID, "operation"),
    (JOBS, JOB | {"input": "hello"}, INVALID, "input"),
    (JOBS, JOB | {"priority": "urgent"}, INVALID, "priority"),
    (JOBS, JOB | {"metadata": []}, INVALID, "metadata"),
    (JOBS, JOB | {"callback_url": ""}, INVALID, "callback_url"),
    (JOBS, JOB | {"run_at": "tomorrow"}, INVALID, "run_at"),
    (JOBS, JOB | {"run_at": "2030-01-01T00:00:00"}, INVALID, "run_at"),
    (JOBS, JOB | {"expires_at": 5}, INVALID, "expires_at"),
    (JOBS, JOB | {"run_timeout": 0}, INVALID, "run_timeout"),
    (JOBS, JOB | {"max_attempts": 0}, INVALID, "max_attempts"),
    (JOBS, JOB | {"model": CHAT_MODEL}, UNSUPPORTED, "model"),
]


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
                error = await error_of(response)

            told = (response.status, error["code"], error["param"], error["type"])
            status = 413 if code == "too_large" else 400
            assert told == (status, code, param, "invalid_request_error"), str(content)[:200]
