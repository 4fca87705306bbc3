"""Jobs from their submission to their end, and their cancelling."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, ToolCallDelta, Usage
from bus.serve import Caller
from bus.streams import api
from tests.support import make
from tests.support.jobs import ENDS, Chat, living, world
from tests.support.nats import Server, until


async def test_submitted_job_is_run_and_its_result_can_be_had(server: Server, tmp_path: Path) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        submitted = await fusion.submit(metadata={"who": "me"}, priority="high")
        kinds = await fusion.ended()
        job = await fusion.get()
        await fusion.queue_is(0)

    assert submitted.status == "queued"
    assert kinds == ["JobQueued", "JobStarted", "JobCompleted"]
    assert job.status == "completed"
    assert job.metadata == {"who": "me"}
    assert job.attempts == 1
    assert msgspec.json.decode(job.result) == {
        "content": "one two",
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert chat.asked == [make.JOB_ID]


async def test_result_of_a_chat_has_its_reasoning_and_calls(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, _CallingChat()) as fusion, living(fusion.worker()):
        await fusion.submit()
        await fusion.ended()
        job = await fusion.get()

    assert msgspec.json.decode(job.result) == {
        "content": "",
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "1", "name": "f", "arguments": '{"a": 1}'}],
        "finish_reason": "tool_calls",
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_jobs_of_all_priorities_are_run_the_highest_first(server: Server, tmp_path: Path) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion:
        for priority in ("low", "normal", "high"):
            await fusion.submit(job_id=f"job-{priority}", priority=priority)
        await fusion.queue_is(3)
        async with living(fusion.worker()):
            await fusion.ended("job-low")

    assert chat.asked == ["job-high", "job-normal", "job-low"]


async def test_job_submitted_twice_is_queued_once(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        first = await fusion.submit()
        again = await fusion.submit(priority="low")
        with pytest.raises(RefusedError) as refused:
            await fusion.submit(input=msgspec.Raw(msgspec.json.encode(make.chat_request("something else"))))

        assert again == first
        assert refused.value.code == "conflict"
        assert await fusion.kinds() == ["JobQueued"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "none"}, "model_not_found", "model_id"),
        ({"model": "local/embed"}, "invalid_request", "operation"),
        ({"operation": "embed"}, "invalid_request", "operation"),
        ({"operation": "dance"}, "invalid_request", "operation"),
        ({"input": msgspec.Raw(b'{"temperature":9}')}, "invalid_request", "input.temperature"),
        ({"input": msgspec.Raw(b'{"mood":9}')}, "unsupported_parameter", "input.mood"),
        ({"input": msgspec.Raw(b"[]")}, "invalid_request", "input"),
        ({"metadata": {"x": "y" * 20_000}}, "too_large", "metadata"),
        ({"job_id": "job-a.b"}, "invalid_request", "job_id"),
        ({"priority": "urgent"}, "invalid_request", "priority"),
    ],
)
async def test_wrong_job_is_refused_and_not_recorded(
    server: Server, tmp_path: Path, fields: dict[str, Any], code: str, param: str
) -> None:
    async with world(server, tmp_path) as fusion:
        with pytest.raises(RefusedError) as refused:
            await fusion.submit(**fields)
        answer = await api(fusion.bus.nc, "STREAM.INFO.EVENTS")

    assert refused.value.code == code
    assert refused.value.failure.param == param
    assert answer["state"]["messages"] == 0


@pytest.mark.parametrize("job_id", ["job-none", "*", ">", "a b", "ü"])
async def test_job_that_does_not_exist_is_not_found(server: Server, tmp_path: Path, job_id: str) -> None:
    async with world(server, tmp_path) as fusion:
        for asking in (fusion.get(job_id), fusion.cancel(job_id)):
            with pytest.raises(RefusedError) as refused:
                await asking
            assert refused.value.code == "job_not_found"


async def test_queued_job_has_ended_when_its_cancel_is_answered(server: Server, tmp_path: Path) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion:
        await fusion.submit()
        await fusion.queue_is(1)
        cancelled = await fusion.cancel()
        waiting = await fusion.waiting()
        async with living(fusion.worker()):
            await fusion.submit(job_id="job-2")
            await fusion.ended("job-2")
        kinds = await fusion.kinds()

    assert cancelled.status == "cancelled"
    assert kinds == ["JobQueued", "JobCancelRequested", "JobCancelled"]
    assert waiting == 0
    assert chat.asked == ["job-2"]


async def test_running_job_is_ended_by_its_cancel(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        await fusion.submit()
        await until(lambda: chat.asked)
        asked = await fusion.cancel()
        kinds = await fusion.ended()
        await until(lambda: chat.closed)
        await fusion.queue_is(0)
        job = await fusion.get()

    assert asked.status in {"processing", "cancelled"}
    assert kinds == ["JobQueued", "JobStarted", "JobCancelRequested", "JobCancelled"]
    assert job.status == "cancelled"


async def test_cancelling_again_or_after_the_end_changes_nothing(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, Chat()) as fusion, living(fusion.worker()):
        await fusion.submit()
        before = await fusion.ended()
        late = await fusion.cancel()
        after = await fusion.kinds()

    assert late.status == "completed"
    assert after == before


async def test_cancels_against_workers_leave_exactly_one_end_each(server: Server, tmp_path: Path) -> None:
    names = [f"job-{n}" for n in range(30)]
    async with world(server, tmp_path, Chat()) as fusion, living(fusion.worker(concurrency=4)):
        await asyncio.gather(*(fusion.submit(job_id=name) for name in names))
        await asyncio.gather(*(fusion.cancel(name) for name in names), return_exceptions=True)
        stories = [await fusion.ended(name) for name in names]
        await fusion.queue_is(0)
        again = [await fusion.kinds(name) for name in names]

    assert stories == again
    assert {sum(kind in ENDS for kind in story) for story in stories} == {1}


class _CallingChat(Chat):
    """Thinks, and calls in two pieces."""

    async def receive(self, _: ChatRequest, __: Caller) -> AsyncGenerator[ChatChunk]:
        yield ChatChunk(reasoning="Hm.", tool_calls=(ToolCallDelta(index=0, id="1", name="f"),))
        usage = Usage(prompt_tokens=3, completion_tokens=2)
        arguments = ToolCallDelta(index=0, arguments='{"a": 1}')
        yield ChatChunk(tool_calls=(arguments,), finish_reason="tool_calls", usage=usage)
