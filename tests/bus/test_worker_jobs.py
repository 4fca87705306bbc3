"""The worker: what a job itself asks for, which job comes first, and when an attempt ends early."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from actors.engines.echo import EchoEngine
from bus.client import settled
from bus.errors import LostError
from bus.messages.chat import ChatRequest
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.messages.tokens import DetokenizeRequest, TokenizeRequest
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.subjects import EMBED
from eventlog.events import JobStarted
from tests.support import make
from tests.support.jobs import Chat, living, world
from tests.support.nats import Server, until
from tests.support.stack import KeepingEngine, chat_actor

USAGE = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6, "prompt_tokens_details": {"cached_tokens": 0}}


@pytest.mark.parametrize(
    ("operation", "request_", "result"),
    [
        ("chat", make.chat_request(), {"content": "hello big world", "finish_reason": "stop", "usage": USAGE}),
        (
            "complete",
            ChatRequest(prompt="hello big world"),
            {"text": "hello big world", "finish_reason": "stop", "usage": USAGE},
        ),
        ("tokenize", TokenizeRequest(prompt="hello world"), {"tokens": [0, 1], "context_length": 4096}),
        ("detokenize", DetokenizeRequest(tokens=(0,)), {"prompt": "hello"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_operation_of_a_chat_model_can_be_a_job(
    server: Server, tmp_path: Path, operation: str, request_: Struct, result: dict[str, Any]
) -> None:
    async with (
        world(server, tmp_path) as fusion,
        chat_actor(fusion.bus, EchoEngine(), model=make.MODEL),
        living(fusion.worker()),
    ):
        if operation == "detokenize":  # The echo knows the words that it was given.
            await fusion.queue(TokenizeRequest(prompt="hello"), operation="tokenize", job_id="job-0")
            await fusion.ended("job-0")
        await fusion.queue(request_, operation=operation)
        await fusion.ended()
        job = await fusion.get()

    assert isinstance(job.result, msgspec.Raw)
    assert msgspec.json.decode(job.result) == result


async def test_more_vectors_than_a_result_may_hold_fail_the_job(server: Server, tmp_path: Path) -> None:
    async def embed(_: EmbedRequest, _caller: Caller) -> AsyncGenerator[EmbedChunk]:
        for start in range(400):
            await settled(fusion.bus.nc)  # As fast as they are read.
            yield EmbedChunk(start=start, vectors=(bytes(200_000),))

    async with world(server, tmp_path) as fusion, living(fusion.worker()):
        info = ServiceInfo(name="embed", instance="embed-1", description="Large vectors")
        async with serving(fusion.bus, info, Endpoint(EMBED(make.MODEL), embed)):
            await fusion.queue(EmbedRequest(input="all"), operation="embed")
            await fusion.ended()
            job = await fusion.get()

    assert (job.status, job.reason, job.result_blob) == ("failed", "refused", None)
    assert job.error is not None
    assert "more than 67108864 bytes" in job.error


async def test_operation_that_nobody_knows_fails(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion, living(fusion.worker()):
        await fusion.queue(operation="dance")
        await fusion.ended()
        job = await fusion.get()

    assert (job.reason, job.error) == ("refused", "This version cannot do 'dance'.")


@pytest.mark.parametrize(("named", "heard"), [(None, 7), (3, 3)])
async def test_seed_of_the_job_holds_where_the_request_names_none(
    server: Server, tmp_path: Path, named: int | None, heard: int
) -> None:
    engine = KeepingEngine()
    async with (
        world(server, tmp_path) as fusion,
        chat_actor(fusion.bus, engine, model=make.MODEL),
        living(fusion.worker()),
    ):
        await fusion.queue(make.chat_request(seed=named), seed=7)
        await fusion.ended()

    assert [request.seed for request in engine.asked] == [heard]


async def test_request_of_a_job_counts_for_the_key_that_submitted_it(server: Server, tmp_path: Path) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        await fusion.queue(key="key-1")
        await fusion.ended()

    assert chat.keys == ["key-1"]


async def test_attempts_and_time_are_those_of_the_job_where_it_says_them(server: Server, tmp_path: Path) -> None:
    chat = Chat(LostError("restarting", "Soon."), gated=True)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        await fusion.queue(job_id="job-1", max_attempts=1)
        await fusion.ended("job-1")
        first = await fusion.get("job-1")
        await fusion.queue(job_id="job-2", run_timeout=0.1)
        await fusion.ended("job-2")
        second = await fusion.get("job-2")

    assert (first.reason, first.attempts) == ("max_attempts", 1)
    assert (second.reason, second.error) == ("timeout", "The job ran longer than 0.1 s.")


async def test_job_whose_time_is_over_when_it_is_handed_out_is_not_begun(server: Server, tmp_path: Path) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        await fusion.queue(expires_at=make.AT)
        kinds = await fusion.ended()
        job = await fusion.get()

    assert kinds == ["JobQueued", "JobFailed"]
    assert job.reason == "expired"
    assert chat.asked == []


async def test_attempt_tells_the_files_of_its_model(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, Chat()) as fusion, living(fusion.worker(revision="sha256:1")):
        await fusion.queue()
        await fusion.ended()
        started = [item.event for item in await fusion.log.read_job(make.JOB_ID)][1]

    assert isinstance(started, JobStarted)
    assert started.revision == "sha256:1"


async def test_higher_priorities_are_run_first_but_lower_ones_are_not_starved(server: Server, tmp_path: Path) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion:
        await fusion.queue(job_id="job-low", priority="low")
        await fusion.queue(job_id="job-normal", priority="normal")
        for number in range(16):
            await fusion.queue(job_id=f"job-{number}", priority="high")
        await fusion.queue_is(18)
        async with living(fusion.worker()):
            await fusion.queue_is(0)

    assert chat.asked[:7] == [f"job-{number}" for number in range(7)]
    assert {"job-low", "job-normal"} <= set(chat.asked[:16])


async def test_cancel_that_was_recorded_before_the_worker_listened_is_not_missed(
    server: Server, tmp_path: Path
) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion:
        queued = await fusion.queue()
        await fusion.log.record_next(make.job_cancel_requested(), after=queued)
        async with living(fusion.worker()):
            kinds = await fusion.ended()

    assert kinds == ["JobQueued", "JobCancelRequested", "JobCancelled"]
    assert chat.asked == []


async def test_attempt_whose_job_another_worker_has_ends_its_work_and_records_nothing(
    server: Server, tmp_path: Path
) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker(ack_wait=0.6)):
        await fusion.queue()
        await until(lambda: chat.asked)
        fence = (await fusion.log.read_job(make.JOB_ID))[-1].seq
        await fusion.log.record_next(make.job_started(actor="other", attempt=2), after=fence)
        await until(lambda: chat.closed)
        kinds = await fusion.kinds()

    assert kinds == ["JobQueued", "JobStarted", "JobStarted"]
