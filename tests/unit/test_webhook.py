"""The fold of a delivery, what comes after an attempt, and its signature."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from actors.webhook_body import body_of
from actors.webhook_hosts import Hosts
from actors.webhook_signature import kept_secret, key_of, new_secret, signed_headers
from bus.errors import RefusedError
from bus.ids import new_id
from eventlog.job import Stamp
from eventlog.webhook import SCHEDULE, Answer, Delivery, decide_next, fold
from eventlog.webhook_events import WebhookAbandoned, WebhookDelivered, WebhookFailed, WebhookScheduled
from tests.support import make

SCHEDULED = WebhookScheduled(
    id=new_id(),
    at=make.AT,
    delivery_id="delivery-1",
    event="job.completed",
    seq=7,
    job_id=make.JOB_ID,
    url="https://example.com/",
)


def next_after(answer: Answer, attempts: int = 0, spread: float = 0.5, retries: int = 9) -> object:
    delivery = fold([SCHEDULED, *(failed(number + 1) for number in range(attempts))])
    assert delivery
    stamp = Stamp(new_id(), make.at(60))
    return decide_next(delivery, answer, stamp, delays=SCHEDULE[:retries], spread=spread)


def failed(attempt: int) -> WebhookFailed:
    return WebhookFailed(
        id=new_id(), at=make.at(attempt), delivery_id="delivery-1", attempt=attempt, error="no", delay=5.0
    )


def folded(*events: object) -> Delivery:
    delivery = fold([SCHEDULED, *events])  # type: ignore[list-item]
    assert delivery
    return delivery


@pytest.mark.parametrize(("at", "delay"), [(make.AT, -1e300), (datetime.max.replace(tzinfo=UTC), 1e300)])
def test_no_delay_makes_the_fold_raise(at: datetime, delay: float) -> None:
    event = WebhookFailed(id=new_id(), at=at, delivery_id="delivery-1", attempt=1, error="no", delay=delay)

    assert folded(event).due_at == at


def test_delays_grow_as_the_standard_says() -> None:
    delays = []
    for attempts in range(9):
        event = next_after(Answer(seconds=1, status=500), attempts)
        assert isinstance(event, WebhookFailed)
        delays.append(event.delay)

    assert delays == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert isinstance(next_after(Answer(seconds=1, status=500), 9), WebhookAbandoned)


@pytest.mark.parametrize(("spread", "delay"), [(0.0, 4.5), (1.0, 5.5)])
def test_delays_are_spread(spread: float, delay: float) -> None:
    event = next_after(Answer(seconds=1, error="no answer"), spread=spread)

    assert isinstance(event, WebhookFailed)
    assert event.delay == pytest.approx(delay)
    assert event.error == "no answer"


@pytest.mark.parametrize(("said", "delay"), [(0.0, 1.0), (42.0, 42.0), (1e9, 86400.0)])
def test_receiver_says_when_to_come_again(said: float, delay: float) -> None:
    event = next_after(Answer(seconds=1, status=503, retry_after=said))

    assert isinstance(event, WebhookFailed)
    assert event.delay == delay


@pytest.mark.parametrize(
    ("status", "kind"), [(200, WebhookDelivered), (299, WebhookDelivered), (410, WebhookAbandoned)]
)
def test_answer_that_ends_it(status: int, kind: type) -> None:
    assert isinstance(next_after(Answer(seconds=1, status=status)), kind)


@pytest.mark.parametrize("status", [199, 301, 307, 404, 500])
def test_answer_that_is_none_of_success(status: int) -> None:
    assert isinstance(next_after(Answer(seconds=1, status=status)), WebhookFailed)
    assert isinstance(next_after(Answer(seconds=1, status=status), retries=0), WebhookAbandoned)


def test_delivery_that_has_ended_stays_so_until_it_is_scheduled_anew() -> None:
    delivered = WebhookDelivered(
        id=new_id(), at=make.at(2), delivery_id="delivery-1", attempt=2, status=200, seconds=0.1
    )

    ended = folded(failed(1), delivered, failed(3))
    anew = folded(failed(1), delivered, SCHEDULED)

    assert (ended.status, ended.attempts, ended.http_status) == ("delivered", 2, 200)
    assert (anew.status, anew.attempts) == ("pending", 0)
    assert folded(failed(1)).due_at == make.at(6)
    assert fold([failed(1)]) is None


@pytest.mark.parametrize(
    "secret",
    [new_secret(), "whsec_" + base64.b64encode(b"x" * 24).decode(), "webhook-secret-123"],
    ids=["new", "of 24 bytes", "a word"],
)
def test_signature_is_what_the_library_of_the_standard_verifies(secret: str) -> None:
    body = body_of(make.job(), "job.queued", make.AT)
    now = int(make.datetime.now(make.UTC).timestamp())

    headers = signed_headers(key_of(secret), "delivery-1", now, body)

    verifier = Webhook(secret if secret.startswith("whsec_") else secret.encode())
    assert verifier.verify(body, headers)["type"] == "job.queued"


@pytest.mark.parametrize("size", [23, 65])
def test_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(RefusedError) as refused:
        key_of("whsec_" + base64.b64encode(b"x" * size).decode())

    assert refused.value.failure.param == "secret"


def test_secret_of_the_callbacks_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "webhook_secret"

    first = kept_secret(path)

    assert kept_secret(path) == first
    assert len(key_of(first)) == 32
    assert path.stat().st_mode & 0o777 == 0o600


def test_host_gets_four_at_once_and_others_wait_about_for_their_turn() -> None:
    hosts = Hosts()
    entered = [hosts.enter("dead", f"delivery-{number}") for number in range(4)]
    for number in range(4):
        hosts.leave("dead", 10.0)
        hosts.enter("dead", f"delivery-{number}")

    delays = [hosts.enter("dead", f"delivery-{number}") for number in range(4, 104)]
    again = hosts.enter("dead", "delivery-4")

    assert entered == [None] * 4
    assert hosts.enter("other", "delivery-1") is None
    assert delays == sorted(delays, key=lambda delay: delay or 0)
    assert (delays[0], delays[-1]) == (pytest.approx(2.5, abs=0.2), 60.0)
    assert again == delays[-1]
    hosts.leave("dead", 0.01)
    assert hosts.enter("dead", "delivery-4") is None


def test_body_stays_under_twenty_kilobytes() -> None:
    job = make.job(metadata={"x": "y" * 16_000}, error="e" * 100_000, status="failed")

    assert len(body_of(job, "job.failed", make.AT)) < 20_000
