"""What the `nats` CLI sees: `nats micro ls|info|stats` drop or refuse answers that its JSON schemas do not allow.

The schemas here are the rules of nats-io/jsm.go `schemas/micro/v1`, in our words.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from jsonschema import Draft7Validator

from bus.serve import Caller, Endpoint, serving
from bus.subjects import REQUESTS, Subject
from tests.support.nats import COUNT_WORDS, SAY, Question, Server, Word, connected, plain_client, service

NAME = {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$", "minLength": 1}
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
METADATA = {"oneOf": [{"type": "object", "additionalProperties": {"type": "string"}}, {"type": "null"}]}
COMMON = {
    "name": NAME,
    "id": TEXT,
    "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    "metadata": METADATA,
}


def answer_of(verb: str, *required: str, **fields: object) -> dict[str, Any]:
    kind = {"type": "string", "const": f"io.nats.micro.v1.{verb.lower()}_response"}
    return {
        "type": "object",
        "required": ["type", "name", "id", "version", *required],
        "properties": {"type": kind, **COMMON, **fields},
    }


ENDPOINT_INFO = {
    "type": "object",
    "required": ["name", "subject"],
    "properties": {"name": NAME, "subject": TEXT, "metadata": METADATA},
}
ENDPOINT_STATS = {
    "type": "object",
    "required": [
        "name",
        "subject",
        "num_requests",
        "num_errors",
        "last_error",
        "processing_time",
        "average_processing_time",
    ],
    "properties": {
        "name": NAME,
        "subject": TEXT,
        "num_requests": COUNT,
        "num_errors": COUNT,
        "last_error": {"type": "string"},
        "processing_time": COUNT,
        "average_processing_time": COUNT,
        "data": {"type": "object"},
    },
}
SCHEMAS = {
    "PING": answer_of("PING"),
    "INFO": answer_of(
        "INFO", "description", description={"type": "string"}, endpoints={"type": "array", "items": ENDPOINT_INFO}
    ),
    "STATS": answer_of(
        "STATS",
        "started",
        "endpoints",
        started={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
        endpoints={"type": "array", "items": ENDPOINT_STATS},
    ),
}


async def say(_: Question, __: Caller) -> AsyncGenerator[Word]:
    yield Word(text="word")


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
@pytest.mark.parametrize("target", ["", ".fusion-chat"])
async def test_answer_is_what_the_nats_cli_takes(server: Server, verb: str, target: str) -> None:
    info = service("fusion-chat", metadata={"model": "mlx-community/Phi-3.5 mini"})
    async with (
        connected(server.url) as bus,
        serving(bus, info, Endpoint(SAY("a/b.c d"), say), Endpoint(COUNT_WORDS("ü"), say)),
        plain_client(server.url) as nc,
    ):
        await bus.ask(COUNT_WORDS("ü"), Question())
        reply = await nc.request(f"$SRV.{verb}{target}", timeout=60)
        answer = json.loads(reply.data)

    errors = [error.message for error in Draft7Validator(SCHEMAS[verb]).iter_errors(answer)]
    assert errors == []
    assert answer["name"] == "fusion-chat"
    assert answer["metadata"]["instance"] == "test-1"
    assert answer["metadata"]["model"] == "mlx-community/Phi-3.5 mini"


@pytest.mark.parametrize("subject", REQUESTS, ids=lambda subject: subject.pattern)
async def test_every_subject_of_fusion_may_be_an_endpoint(server: Server, subject: Subject[Any, Any]) -> None:
    address = subject(*["m/1.5"] * subject.pattern.count("*"))
    async with (
        connected(server.url) as bus,
        serving(bus, service(), Endpoint(address, say)),
        plain_client(server.url) as nc,
    ):
        reply = await nc.request("$SRV.INFO", timeout=60)
        answer = json.loads(reply.data)

    assert list(Draft7Validator(SCHEMAS["INFO"]).iter_errors(answer)) == []
    assert [endpoint["subject"] for endpoint in answer["endpoints"]] == [address.name]


async def test_stats_tell_the_numbers_of_the_actor(server: Server) -> None:
    info = service(stats=lambda: {"queued": 3})
    async with (
        connected(server.url) as bus,
        serving(bus, info, Endpoint(SAY("m"), say)),
        plain_client(server.url) as nc,
    ):
        reply = await nc.request("$SRV.STATS", timeout=60)

    assert json.loads(reply.data)["endpoints"][0]["data"] == {"queued": 3}


async def test_two_instances_share_the_requests_of_a_subject(server: Server) -> None:
    answered: set[str] = set()

    def named(name: str) -> Any:
        async def receive(_: Question, __: Caller) -> AsyncGenerator[Word]:
            answered.add(name)
            yield Word(text=name)

        return receive

    async with (
        connected(server.url) as bus,
        serving(bus, service(instance="1"), Endpoint(COUNT_WORDS("m"), named("1"))),
        serving(bus, service(instance="2"), Endpoint(COUNT_WORDS("m"), named("2"))),
    ):
        replies = await asyncio.gather(*(bus.ask(COUNT_WORDS("m"), Question()) for _ in range(50)))

    assert len(replies) == 50
    assert answered == {"1", "2"}
