"""The streams: what the server is asked to keep, created once and compared field by field.

EVENTS is the log. JOBS is a work queue that the server itself fills from EVENTS, so that one write both
records a job and enqueues it. RAG is the part of the log that is kept for good. The reasons for each setting are in
docs/adr/0003, docs/adr/0020 and docs/subjects.md.
"""

import asyncio
import json
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from bus.client import again_if_lost
from bus.errors import LostError
from bus.subjects import queue_of

Json = dict[str, Any]

_DAY = 24 * 3600 * 10**9  # nanoseconds, as JetStream counts
_GIB = 2**30
_API = "$JS.API"
# Seconds between looks for what the work queue has not taken over from the log yet.
_PURGE_PAUSES = (0.01, 0.04, 0.15, 0.3)

_NO_MESSAGE = 10037


class StreamError(Exception):
    """The server keeps a stream otherwise than asked."""


def events_stream(keep_days: int, max_bytes: int = 4 * _GIB) -> Json:
    """Return the configuration of the log: it refuses what would make it larger than `max_bytes`."""
    return {
        "name": "EVENTS",
        "subjects": ["fusion.event.>"],
        "retention": "limits",
        "discard": "new",
        "max_age": keep_days * _DAY,
        "max_bytes": max_bytes,
        "max_msg_size": 64 * 1024,
        "storage": "file",
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": True,
        "num_replicas": 1,
        "republish": {"src": "fusion.event.>", "dest": "fusion.feed.>"},
    }


def jobs_stream() -> Json:
    """Return the configuration of the work queue, sourced from the log."""
    queued = "fusion.event.job.*.queued.*.*"
    return {
        "name": "JOBS",
        "retention": "workqueue",
        "discard": "new",
        "max_msgs": 10_000,
        "storage": "file",
        "num_replicas": 1,
        "sources": [
            {
                "name": "EVENTS",
                "subject_transforms": [
                    {"src": queued, "dest": "fusion.queue.{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(1)}}"}
                ],
            }
        ],
        "republish": {"src": "fusion.queue.>", "dest": "fusion.wake.>", "headers_only": True},
    }


def deliveries_stream() -> Json:
    """Return the configuration of the work queue of webhooks, sourced from the log as the jobs are."""
    return {
        "name": "DELIVERIES",
        "retention": "workqueue",
        "discard": "new",
        "max_msgs": 100_000,
        "storage": "file",
        "num_replicas": 1,
        "sources": [
            {
                "name": "EVENTS",
                "subject_transforms": [
                    {"src": "fusion.event.webhook.*.scheduled", "dest": "fusion.delivery.{{wildcard(1)}}"}
                ],
            }
        ],
    }


def rag_stream() -> Json:
    """Return the configuration of the documents' own log: sourced from the log, and kept without an age."""
    return {
        "name": "RAG",
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": True,
        "num_replicas": 1,
        "sources": [{"name": "EVENTS", "filter_subject": "fusion.event.rag.>"}],
    }


def progress_stream() -> Json:
    """Return the configuration of the last word on running jobs, which is in memory."""
    return {
        "name": "PROGRESS",
        "subjects": ["fusion.progress.>"],
        "retention": "limits",
        "discard": "old",
        "max_msgs": 10_000,
        "max_msgs_per_subject": 1,
        "max_age": _DAY,
        "storage": "memory",
        "allow_direct": True,
        "num_replicas": 1,
    }


def webhooks_bucket() -> Json:
    """Return the configuration of the bucket that keeps the webhooks: without an age, and not republished."""
    return {
        "name": "KV_fusion_webhooks",
        "subjects": ["$KV.fusion_webhooks.>"],
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_msg_size": 16 * 1024,
        "storage": "file",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "num_replicas": 1,
    }


def queue_consumer(name: str, subject: str, ack_wait: float = 30.0) -> Json:
    """Return the configuration of one durable of the work queue: it hands a job out again after `ack_wait` seconds.

    Attempts are counted in the log, not here.
    """
    return {
        "durable_name": name,
        "filter_subject": subject,
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait * 10**9),
        "max_deliver": -1,
        "max_ack_pending": 256,
        "deliver_policy": "all",
    }


async def api(nc: Client, call: str, body: Json | None = None, *, wait: float = 5.0) -> Json:
    """Call JetStream's API and return its answer, errors included. Raises `LostError` when there is none.

    The call may be made twice (`again_if_lost`).
    """
    payload = json.dumps(body).encode() if body else b""
    try:
        async with asyncio.timeout(wait):
            msg = await again_if_lost(nc, lambda: nc.request(f"{_API}.{call}", payload, timeout=wait))
    except (NatsError, TimeoutError) as error:
        raise LostError("unavailable", f"JetStream does not answer {call}.", retry_after=1) from error
    answer: Json = json.loads(msg.data)
    return answer


async def stream_info(nc: Client, name: str) -> Json:
    """Return what the server tells of the stream. Raises `LostError` when there is none, or JetStream is not ready."""
    answer = await api(nc, f"STREAM.INFO.{name}")
    if "error" in answer:
        raise LostError("unavailable", f"{name}: {answer['error'].get('description')}.", retry_after=1)
    return answer


async def stream_state(nc: Client, name: str) -> Json:
    """Return what the server tells of what is in the stream. Raises as `stream_info` does."""
    state: Json = (await stream_info(nc, name))["state"]
    return state


async def stream_last_seq(nc: Client, name: str) -> int:
    """Return the sequence of the last message in the stream; 0 when there is none. Raises as `stream_info` does."""
    state = await stream_state(nc, name)
    return int(state["last_seq"]) if state["messages"] else 0


async def stream_fill(nc: Client, name: str) -> float:
    """Return which part of the bytes that the stream may hold it holds. Raises as `stream_info` does."""
    told = await stream_info(nc, name)
    return float(told["state"]["bytes"] / told["config"]["max_bytes"])


async def first_seq_since(nc: Client, name: str, at: datetime) -> int | None:
    """Return the sequence of the first message that was stored at `at` or later; None when there is none."""
    answer = await api(nc, f"STREAM.MSG.GET.{name}", {"start_time": at.isoformat(), "next_by_subj": ">"})
    if "error" in answer and answer["error"].get("err_code") != _NO_MESSAGE:
        raise LostError("unavailable", f"{name}: {answer['error'].get('description')}.", retry_after=1)
    return int(answer["message"]["seq"]) if "message" in answer else None


async def queued_jobs(nc: Client) -> list[str]:
    """Return the jobs that are in the work queue; they leave it when they have ended. Raises `LostError`."""
    # The server tells 100,000 subjects at once, ten times as many as the queue takes.
    answer = await api(nc, "STREAM.INFO.JOBS", {"subjects_filter": ">"})
    if "error" in answer:
        raise LostError("unavailable", f"JOBS: {answer['error'].get('description')}.", retry_after=1)
    return [subject.rsplit(".", 1)[1] for subject in answer["state"].get("subjects", {})]


async def purge_job(nc: Client, job_id: str) -> None:
    """Take a job off the work queue, if it is still there.

    It comes there a moment after the log has it, so one that is not found is looked for again for half a second.
    """
    for pause in (*_PURGE_PAUSES, None):
        answer = await api(nc, "STREAM.PURGE.JOBS", {"filter": f"fusion.queue.*.*.{job_id}"})
        if answer.get("purged") or pause is None:
            return
        await asyncio.sleep(pause)


async def is_queued(nc: Client, model: str) -> bool:
    """Say whether the work queue has a job of `model`. Raises `LostError`."""
    answer = await api(nc, "STREAM.MSG.GET.JOBS", {"last_by_subj": queue_of(model)})
    return "message" in answer


async def ensure_streams(nc: Client, keep_days: int, max_bytes: int = 4 * _GIB) -> None:
    """Create the streams, or bring them to what is wanted; the log first, which others are sourced from."""
    await ensure_stream(nc, events_stream(keep_days, max_bytes))
    await ensure_stream(nc, jobs_stream())
    await ensure_stream(nc, rag_stream())
    await ensure_stream(nc, progress_stream())


async def ensure_stream(nc: Client, wanted: Json) -> None:
    """Create the stream, or bring it to what is wanted. Raises `StreamError` where the server did otherwise."""
    name = wanted["name"]
    answer = await api(nc, f"STREAM.INFO.{name}")
    if "error" in answer:
        answer = await api(nc, f"STREAM.CREATE.{name}", wanted)
    elif differences(wanted, answer["config"]):
        answer = await api(nc, f"STREAM.UPDATE.{name}", wanted)
    _check(name, wanted, answer)


async def ensure_consumer(nc: Client, stream: str, wanted: Json) -> None:
    """Create the durable consumer, or bring it to what is wanted."""
    name = wanted["durable_name"]
    body = {"stream_name": stream, "config": wanted, "action": ""}
    answer = await api(nc, f"CONSUMER.CREATE.{stream}.{name}.{wanted['filter_subject']}", body)
    _check(f"{stream}/{name}", wanted, answer)


def differences(wanted: object, kept: object, path: str = "") -> list[str]:
    """Return where `kept` lacks, or has otherwise, what was wanted. What the server adds does not count."""
    if isinstance(wanted, dict) and isinstance(kept, dict):
        found: list[str] = []
        for key, value in wanted.items():
            found += differences(value, kept.get(key), f"{path}.{key}" if path else str(key))
        return found
    if isinstance(wanted, list) and isinstance(kept, list) and len(wanted) == len(kept):
        return [line for w, k in zip(wanted, kept, strict=True) for line in differences(w, k, path)]
    return [] if wanted == kept else [f"{path}: asked {wanted!r}, kept {kept!r}"]


def _check(name: str, wanted: Json, answer: Json) -> None:
    if "error" in answer:
        raise StreamError(f"{name}: {answer['error'].get('description', answer['error'])}")
    wrong = differences(wanted, answer["config"])
    if wrong:
        raise StreamError(f"{name}: the server keeps it otherwise than asked: {'; '.join(wrong)}")
