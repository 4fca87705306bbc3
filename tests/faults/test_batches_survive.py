"""A batch under way while the processes that carry it are killed."""

from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import openai
from openai import AsyncOpenAI

from bus.client import Bus
from bus.config import BusConfig
from bus.events import EventLog
from bus.subjects import EVENTS
from eventlog.events import JobCompleted
from tests.support.batches import answers, ended, line
from tests.support.nats import until, until_it
from tests.support.processes import Fusion, fusion_up, toy_only

COUNT = 60
CONFIG = toy_only("job_ack_wait: 3, job_max_attempts: 50")
STORY = {
    "model": "fusion-toy",
    "messages": [{"role": "user", "content": "Tell me a story about a dog."}],
    "max_tokens": 20,
    "temperature": 0,
}


async def test_batch_completes_with_each_line_once_whatever_is_killed(tmp_path: Path) -> None:
    async with fusion_up(tmp_path, CONFIG) as fusion:
        url = f"{fusion.running.http_url}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=20) as client:
            lines = b"\n".join(line(str(number), STORY) for number in range(COUNT))
            file = await client.files.create(file=("input.jsonl", lines), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            await _kill(fusion, "edge")  # It may have begun to read the file.
            for done, victims in ((5, ("core",)), (20, ("nats-server",)), (35, ("core", "edge"))):
                await until_it(partial(_has_done, client, batch.id, done), 120)
                for victim in victims:
                    await _kill(fusion, victim)
            batch = await ended(client, batch.id, 180)
            found = await answers(client, batch.output_file_id)

        async with Bus.connect("test", BusConfig(url=fusion.running.nats_url)) as bus:
            recorded = await EventLog(bus).read(EVENTS)

    done = Counter(item.event.job_id for item in recorded if isinstance(item.event, JobCompleted))
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert list(found) == [str(number) for number in range(COUNT)]
    assert len({each["response"]["body"]["choices"][0]["message"]["content"] for each in found.values()}) == 1
    assert done == {f"job-{batch.id}-{number}": 1 for number in range(1, COUNT + 1)}


async def _has_done(client: AsyncOpenAI, batch_id: str, count: int) -> bool:
    with suppress(openai.APIError):
        counts = (await client.batches.retrieve(batch_id)).request_counts
        return counts is not None and counts.completed >= count
    return False


async def _kill(fusion: Fusion, victim: str) -> None:
    await until(lambda: _killed(fusion, victim))


def _killed(fusion: Fusion, victim: str) -> bool:
    try:
        fusion.kill(victim)
    except (LookupError, ProcessLookupError):
        return False  # It is being restarted; once it is there it is killed.
    return True
