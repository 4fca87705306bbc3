"""The webhook API, before the actor that sends them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bus.streams import ensure_streams
from tests.support import make
from tests.support.nats import until
from tests.support.stack import Stack, stack
from tests.support.webhooks import SECRET, Telling, receiving, telling

PATH = "/api/mcp/webhook"


@asynccontextmanager
async def _webhooks(nats_url: str, folder: Path, **config: Any) -> AsyncGenerator[tuple[Stack, Telling]]:
    async with stack(nats_url, folder) as edge:
        await ensure_streams(edge.bus.nc, keep_days=7)
        async with telling(edge.bus, folder, **config) as webhooks:
            yield edge, webhooks


async def _call(edge: Stack, method: str, path: str = "", **options: Any) -> tuple[int, Any]:
    async with edge.http.request(method, PATH + path, **options) as response:
        return response.status, await response.json()


async def test_webhook_lives_as_the_seeds_say(nats_url: str, tmp_path: Path) -> None:
    async with _webhooks(nats_url, tmp_path) as (edge, webhooks), receiving(500, 500, 200) as receiver:
        body = {"url": receiver.url, "events": ["job.completed", "job.failed"], "secret": SECRET}
        status, registered = await _call(edge, "POST", json=body)
        one = f"/{registered['webhook_id']}"
        strange, _ = await _call(edge, "POST", f"{one}/test", headers={"Origin": "https://elsewhere.example"})
        _, tested = await _call(edge, "POST", f"{one}/test")
        await webhooks.log.record(make.job_queued())
        await webhooks.log.record(make.job_failed())
        await until(lambda: len(receiver.received) == 3)
        await webhooks.settled(registered["webhook_id"])
        _, listed = await _call(edge, "GET")
        _, retrieved = await _call(edge, "GET", one)
        _, told = await _call(edge, "GET", f"{one}/deliveries?limit=5")
        [delivery] = told["deliveries"]
        _, redelivered = await _call(edge, "POST", f"{one}/deliveries/{delivery['delivery_id']}/redeliver")
        await until(lambda: len(receiver.received) == 4)
        _, deleted = await _call(edge, "DELETE", one)
        gone, _ = await _call(edge, "GET", one)

    assert (status, strange) == (200, 400)
    assert registered == {
        "webhook_id": registered["webhook_id"],
        "url": receiver.url,
        "status": "active",
        "events": ["job.completed", "job.failed"],
        "created_at": registered["created_at"],
        "failure_count": 0,
    }
    assert tested == {
        "webhook_id": registered["webhook_id"],
        "delivered": False,
        "status": 500,
        "seconds": tested["seconds"],
        "error": "The answer was 500.",
    }
    assert listed["webhooks"] == [retrieved]
    assert "secret" not in retrieved
    assert (delivery["status"], delivery["attempts"], delivery["http_status"]) == ("delivered", 2, 200)
    assert (redelivered["status"], redelivered["attempts"]) == ("pending", 0)
    assert deleted == {"webhook_id": registered["webhook_id"], "deleted": True}
    assert gone == 404


async def test_secret_that_was_made_is_told_in_the_answer(nats_url: str, tmp_path: Path) -> None:
    async with _webhooks(nats_url, tmp_path) as (edge, _), receiving() as receiver:
        _, registered = await _call(edge, "POST", json={"url": receiver.url})
        _, tested = await _call(edge, "POST", f"/{registered['webhook_id']}/test")

    assert registered["events"] == ["job.completed", "job.failed", "job.cancelled"]
    assert tested["delivered"]
    assert [body["type"] for body in receiver.verified(registered["secret"])] == ["webhook.test"]


BAD_BODIES: list[tuple[dict[str, Any], str, str]] = [
    ({"url": "https://169.254.169.254/latest"}, "invalid_request", "url"),
    ({"url": "http://example.com/"}, "invalid_request", "url"),
    ({"events": ["job.completed"]}, "invalid_request", "url"),
    ({"url": "https://example.com/", "events": ["job.exploded"]}, "invalid_request", "events[0]"),
    ({"url": "https://example.com/", "events": []}, "invalid_request", "events"),
    ({"url": "https://example.com/", "secret": "whsec_c2hvcnQ="}, "invalid_request", "secret"),
    ({"url": "https://example.com/", "secret": "whsec_no base64"}, "invalid_request", "secret"),
    ({"url": "https://example.com/", "headers": {}}, "unsupported_parameter", "headers"),
]


async def test_webhook_that_cannot_be_is_refused_by_field(nats_url: str, tmp_path: Path) -> None:
    async with _webhooks(nats_url, tmp_path, webhook_networks=()) as (edge, _):
        for body, code, param in BAD_BODIES:
            status, answer = await _call(edge, "POST", json=body)

            assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, code, param), body
        _, listed = await _call(edge, "GET")

    assert listed == {"webhooks": []}


async def test_unknown_webhook_is_not_found(nats_url: str, tmp_path: Path) -> None:
    async with _webhooks(nats_url, tmp_path) as (edge, _):
        for path in ("/wh-none", "/wh-none/deliveries", "/x%20y/deliveries", "/*"):
            status, answer = await _call(edge, "GET", path)

            assert (status, answer["error"]["code"]) == (404, "webhook_not_found"), path
