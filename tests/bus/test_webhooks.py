"""Webhooks, from the events of real jobs to a real receiver."""

import asyncio
from pathlib import Path

import pytest

from actors.webhook_registry import Registry, Webhook
from bus.errors import RefusedError
from bus.messages.webhooks import DeleteWebhook, GetWebhook, ListWebhooks, Redeliver, RegisterWebhook, TryWebhook
from bus.subjects import (
    DELETE_WEBHOOK,
    FEED,
    GET_WEBHOOK,
    LIST_WEBHOOKS,
    REDELIVER,
    REGISTER_WEBHOOK,
    TEST_WEBHOOK,
    WEBHOOK_EVENTS,
    fill,
)
from tests.support import make
from tests.support.jobs import Chat, living, world
from tests.support.nats import Server, connected, until, until_it
from tests.support.webhooks import LOOPBACK, SECRET, receiving, silent, telling


async def test_end_of_a_job_is_told_once_and_signed(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, Chat()) as fusion, telling(fusion.bus, tmp_path) as webhooks:
        async with receiving() as receiver, living(fusion.worker()):
            webhook = await webhooks.register(receiver.url, events=("job.completed",), description="mine")
            await fusion.submit(metadata={"user_id": "user123"})
            [delivery] = await webhooks.settled(webhook.webhook_id)
            kept = await fusion.bus.ask(GET_WEBHOOK(), GetWebhook(webhook_id=webhook.webhook_id))
            recorded = await webhooks.log.read(fill(WEBHOOK_EVENTS, delivery.delivery_id))

    [body] = receiver.verified(SECRET.encode())
    [request] = receiver.received
    assert body["type"] == "job.completed"
    assert body["data"] == {
        "job_id": make.JOB_ID,
        "status": "completed",
        "model_id": make.MODEL,
        "operation": "chat",
        "created_at": body["data"]["created_at"],
        "completed_at": body["timestamp"],
        "metadata": {"user_id": "user123"},
        "error": None,
        "reason": None,
        "result_url": f"/api/mcp/jobs/{make.JOB_ID}",
    }
    assert request.headers["webhook-id"] == delivery.delivery_id
    assert (delivery.status, delivery.attempts, delivery.http_status) == ("delivered", 1, 200)
    assert [type(item.event).__name__ for item in recorded] == ["WebhookScheduled", "WebhookDelivered"]
    assert (kept.secret, kept.failure_count, kept.description) == (None, 0, "mine")
    assert kept.last_triggered_at is not None


async def test_failed_attempt_is_made_again_with_the_same_id_and_body(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, Chat()) as fusion, telling(fusion.bus, tmp_path) as webhooks:
        async with receiving(500, 302, (503, {"Retry-After": "1"}), 204) as receiver, living(fusion.worker()):
            webhook = await webhooks.register(receiver.url)
            await fusion.submit()
            [delivery] = await webhooks.settled(webhook.webhook_id)

    assert (delivery.status, delivery.attempts, delivery.http_status) == ("delivered", 4, 204)
    assert len(receiver.verified(SECRET.encode())) == 4
    assert len({(each.headers["webhook-id"], each.raw) for each in receiver.received}) == 1


async def test_delivery_that_never_gets_through_is_abandoned_and_can_be_made_again(
    server: Server, tmp_path: Path
) -> None:
    async with world(server, tmp_path, Chat()) as fusion, telling(fusion.bus, tmp_path, webhook_retry_count=1) as told:
        async with receiving(500, 500, 200) as receiver, living(fusion.worker()):
            webhook = await told.register(receiver.url)
            await fusion.submit()
            [abandoned] = await told.settled(webhook.webhook_id)
            failed = await fusion.bus.ask(GET_WEBHOOK(), GetWebhook(webhook_id=webhook.webhook_id))
            order = Redeliver(webhook_id=webhook.webhook_id, delivery_id=abandoned.delivery_id)
            await fusion.bus.ask(REDELIVER(), order)
            await until(lambda: len(receiver.received) == 3)
            [delivered] = await told.settled(webhook.webhook_id)

    assert (abandoned.status, abandoned.attempts, abandoned.last_error) == ("abandoned", 2, "The answer was 500.")
    assert (failed.failure_count, failed.status) == (2, "active")
    assert (delivered.status, delivered.attempts) == ("delivered", 1)
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1


async def test_receiver_that_is_gone_is_told_nothing_more(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, Chat()) as fusion, telling(fusion.bus, tmp_path) as webhooks:
        async with receiving(410) as receiver, living(fusion.worker()):
            webhook = await webhooks.register(receiver.url)
            await fusion.submit()
            [delivery] = await webhooks.settled(webhook.webhook_id)
            await fusion.submit(job_id="job-2")
            await fusion.ended("job-2")
            other = await webhooks.register(receiver.url)
            await fusion.submit(job_id="job-3")
            await webhooks.settled(other.webhook_id)
            deliveries = await webhooks.deliveries(webhook.webhook_id)
            kept = await fusion.bus.ask(GET_WEBHOOK(), GetWebhook(webhook_id=webhook.webhook_id))

    assert (delivery.status, delivery.attempts) == ("abandoned", 1)
    assert kept.status == "disabled"
    assert [each.delivery_id for each in deliveries] == [delivery.delivery_id]
    assert [each.body["data"]["job_id"] for each in receiver.received] == [make.JOB_ID, "job-3"]


async def test_callback_of_a_job_is_told_how_it_ends_signed_with_the_secret_of_the_state_folder(
    server: Server, tmp_path: Path
) -> None:
    async with world(server, tmp_path) as fusion, telling(fusion.bus, tmp_path), receiving() as receiver:
        queued = make.job_queued(callback_url=receiver.url, job_id="job-called")
        await fusion.log.record(queued)
        await fusion.log.record(make.job_started(job_id="job-called"))
        await fusion.log.record(make.job_failed(job_id="job-called", reason="timeout", error="too slow"))
        await until(lambda: receiver.received)

    secret = tmp_path / "webhook_secret"
    [body] = receiver.verified(secret.read_text().strip())
    assert body["type"] == "job.failed"
    assert (body["data"]["reason"], body["data"]["error"]) == ("timeout", "too slow")
    assert body["data"]["result_url"] is None
    assert secret.stat().st_mode & 0o777 == 0o600


async def test_callback_of_a_submitted_job_is_told_of_its_end_alone(server: Server, tmp_path: Path) -> None:
    async with receiving() as receiver, world(server, tmp_path, Chat(), webhook_networks=LOOPBACK) as fusion:
        async with telling(fusion.bus, tmp_path), living(fusion.worker()):
            await fusion.submit(callback_url=receiver.url)
            await until(lambda: receiver.received)
            await fusion.queue_is(0)

    [body] = receiver.verified((tmp_path / "webhook_secret").read_text().strip())
    assert (body["type"], body["data"]["job_id"]) == ("job.completed", make.JOB_ID)


async def test_what_happened_while_the_actor_was_away_is_told_when_it_is_back(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion, receiving((503, {"Retry-After": "1"}), 200) as receiver:
        async with telling(fusion.bus, tmp_path) as webhooks:
            webhook = await webhooks.register(receiver.url, events=("job.queued",))
            await fusion.submit()
            await until(lambda: receiver.received)
            await fusion.submit(job_id="job-2")
            await until(lambda: len(receiver.received) >= 2)
        await fusion.submit(job_id="job-3")
        async with telling(fusion.bus, tmp_path) as webhooks:
            deliveries = await webhooks.settled(webhook.webhook_id, 3)

    assert {each.status for each in deliveries} == {"delivered"}
    assert {each.body["data"]["job_id"] for each in receiver.received} == {make.JOB_ID, "job-2", "job-3"}
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 3


async def test_host_that_does_not_answer_holds_up_no_other_and_no_job(server: Server, tmp_path: Path) -> None:
    async with (
        silent() as url,
        world(server, tmp_path, Chat()) as fusion,
        telling(fusion.bus, tmp_path, webhook_timeout=120.0) as webhooks,
    ):
        async with receiving() as receiver, living(fusion.worker()):
            mute = [await webhooks.register(url) for _ in range(20)]
            webhook = await webhooks.register(receiver.url)
            await fusion.submit()
            [delivery] = await webhooks.settled(webhook.webhook_id)
            kinds = await fusion.ended()
            pending = [each for one in mute for each in await webhooks.deliveries(one.webhook_id)]

    assert delivery.status == "delivered"
    assert kinds[-1] == "JobCompleted"
    assert [(each.status, each.attempts) for each in pending] == [("pending", 0)] * 20


async def test_attempt_that_takes_too_long_has_failed(server: Server, tmp_path: Path) -> None:
    async with silent() as url, world(server, tmp_path) as fusion:
        async with telling(fusion.bus, tmp_path, webhook_timeout=0.2, webhook_retry_count=0) as webhooks:
            webhook = await webhooks.register(url, events=("job.queued",))
            await fusion.submit()
            [delivery] = await webhooks.settled(webhook.webhook_id)
            tested = await fusion.bus.ask(TEST_WEBHOOK(), TryWebhook(webhook_id=webhook.webhook_id))

    assert (delivery.status, delivery.last_error) == ("abandoned", "There was no answer within 0.2 s.")
    assert (tested.delivered, tested.status, tested.error) == (False, None, "There was no answer within 0.2 s.")


async def test_secret_is_told_once_and_is_not_on_the_feed(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion, telling(fusion.bus, tmp_path) as webhooks, receiving() as receiver:
        heard: list[bytes] = []
        subscription = await fusion.bus.nc.subscribe(FEED)
        webhook = await fusion.bus.ask(REGISTER_WEBHOOK(), RegisterWebhook(url=receiver.url, events=("job.queued",)))
        kept = await fusion.bus.ask(GET_WEBHOOK(), GetWebhook(webhook_id=webhook.webhook_id))
        tested = await fusion.bus.ask(TEST_WEBHOOK(), TryWebhook(webhook_id=webhook.webhook_id))
        await fusion.submit()
        await webhooks.settled(webhook.webhook_id)
        while subscription.pending_msgs:
            heard.append((await subscription.next_msg()).data)

    assert webhook.secret is not None
    assert webhook.secret.startswith("whsec_")
    assert kept.secret is None
    assert tested.delivered
    assert [body["type"] for body in receiver.verified(webhook.secret)] == ["webhook.test", "job.queued"]
    assert len(heard) >= 3
    assert webhook.secret.encode() not in b"".join(heard)


async def test_deleted_webhook_is_told_nothing_and_unknown(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion, receiving((503, {"Retry-After": "4"}), 200) as receiver:
        async with telling(fusion.bus, tmp_path) as webhooks:
            webhook = await webhooks.register(receiver.url, events=("job.queued",))
            await fusion.submit()
            await until(lambda: receiver.received)
            await fusion.bus.ask(DELETE_WEBHOOK(), DeleteWebhook(webhook_id=webhook.webhook_id))
            delivery_id = receiver.received[0].headers["webhook-id"]

            async def is_abandoned() -> bool:
                recorded = await webhooks.log.read(fill(WEBHOOK_EVENTS, delivery_id))
                return type(recorded[-1].event).__name__ == "WebhookAbandoned"

            await until_it(is_abandoned)
            with pytest.raises(RefusedError) as refused:
                await fusion.bus.ask(GET_WEBHOOK(), GetWebhook(webhook_id=webhook.webhook_id))
        async with telling(fusion.bus, tmp_path):
            with pytest.raises(RefusedError):
                await fusion.bus.ask(GET_WEBHOOK(), GetWebhook(webhook_id=webhook.webhook_id))

    assert (refused.value.code, refused.value.failure.param) == ("webhook_not_found", "webhook_id")
    assert len(receiver.received) == 1


async def test_webhook_whose_keeping_was_lost_with_the_server_is_kept(server: Server) -> None:
    webhook = Webhook(
        webhook_id="wh-1",
        url="http://127.0.0.1/",
        events=(),
        secret=SECRET,
        status="active",
        created_at=make.AT,
        since=0,
    )
    async with connected(server.url) as bus:
        registry = Registry(bus)
        await registry.read()
        await server.freeze()
        putting = asyncio.create_task(registry.put(webhook))
        await until(lambda: bus.nc._resp_map)
        await server.kill()
        await server.start()
        await putting
        await registry.read()

    assert registry.webhooks == (webhook,)


async def test_webhooks_are_not_more_than_can_be_listed(server: Server, tmp_path: Path) -> None:
    wordy = RegisterWebhook(url="https://example.com/" + "x" * 2000, description="😀" * 1000)
    async with world(server, tmp_path) as fusion, telling(fusion.bus, tmp_path):
        count = 0
        with pytest.raises(RefusedError) as refused:
            for _ in range(200):
                await fusion.bus.ask(REGISTER_WEBHOOK(), wordy)
                count += 1
        listed = await fusion.bus.ask(LIST_WEBHOOKS(), ListWebhooks())

    assert refused.value.code == "storage_full"
    assert len(listed.webhooks) == count
