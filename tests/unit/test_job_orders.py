"""Which jobs are accepted, and with which times."""

from datetime import UTC, timedelta, timezone
from typing import Any

import msgspec
import pytest

from actors.config import ActorsConfig
from actors.job_orders import Times, check_order, decide_times
from bus.errors import RefusedError
from bus.messages.catalogue import ModelEntry
from bus.messages.models import ModelCard
from tests.support import make

CONFIG = ActorsConfig(job_ttl_days=7, job_queue_timeout=3600)
LAST = make.at(7 * 24 * 3600 - 3600)
DAY = 24 * 3600
CHAT = ModelCard(id=make.MODEL, kind="chat", tier=1, state="ready", created=0)
EMBED = ModelCard(id="local/embed", kind="embeddings", tier=1, state="ready", created=0)
RERANK = ModelCard(id="local/rerank", kind="rerank", tier=1, state="ready", created=0)


def order(**fields: Any) -> Any:
    values = fields | ({"input": msgspec.Raw(msgspec.json.encode(fields["input"]))} if "input" in fields else {})
    return make.submit_job(**values)


INGEST = {"operation": "rag.ingest", "model": "rag", "input": {"documents": [{"text": "It rains."}]}}


def test_ingest_needs_no_model_of_the_catalogue() -> None:
    assert check_order(order(**INGEST), None) is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": make.MODEL}, "model_id"),
        ({"input": {"documents": []}}, "input.documents"),
        ({"input": {"documents": [{"txt": "It rains."}]}}, "input.documents[0].txt"),
        ({"input": {"documents": [{"text": "It rains."}], "chunk_size": 4}}, "input.chunk_size"),
    ],
)
def test_ingest_that_nobody_could_do_is_refused_by_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusedError) as refused:
        check_order(order(**(INGEST | fields)), None)

    assert refused.value.failure.param == param


@pytest.mark.parametrize("names", [{"id": "rag"}, {"id": "tiny", "aliases": ["rag"]}])
def test_no_model_can_have_the_name_of_the_rag_actor(names: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="`rag`"):
        msgspec.convert({"kind": "chat", **names}, ModelEntry)


@pytest.mark.parametrize(
    ("fields", "run_at", "expires_at"),
    [
        ({}, None, make.at(3600)),
        ({"run_at": make.at(60)}, make.at(60), make.at(3660)),
        ({"run_at": make.at(0)}, None, make.at(3600)),
        ({"run_at": make.at(-60)}, None, make.at(3600)),
        ({"run_at": make.at(6 * DAY)}, make.at(6 * DAY), make.at(6 * DAY + 3600)),
        ({"expires_at": make.at(1)}, None, make.at(1)),
        ({"run_at": make.at(60), "expires_at": LAST}, make.at(60), LAST),
    ],
)
def test_job_expires_some_time_after_it_can_begin(fields: Any, run_at: Any, expires_at: Any) -> None:
    assert decide_times(order(**fields), make.AT, CONFIG) == Times(run_at=run_at, expires_at=expires_at)


def test_times_of_another_zone_are_kept_and_told_in_utc() -> None:
    run_at = make.at(60).astimezone(timezone(timedelta(hours=5)))
    times = decide_times(order(run_at=run_at, expires_at=run_at + timedelta(hours=1)), make.AT, CONFIG)
    with pytest.raises(RefusedError) as refused:
        decide_times(order(run_at=run_at, expires_at=run_at), make.AT, CONFIG)

    assert (times.run_at, times.expires_at) == (make.at(60), make.at(3660))
    assert {times.run_at and times.run_at.tzinfo, times.expires_at.tzinfo} == {UTC}
    assert f"{make.at(60):%Y-%m-%dT%H:%M:%SZ}" in str(refused.value)


def test_job_expires_before_the_log_forgets_it() -> None:
    config = ActorsConfig(job_ttl_days=1, job_queue_timeout=10 * DAY)

    assert decide_times(order(), make.AT, config).expires_at == make.at(DAY - 3600)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"run_at": make.at(6 * DAY + 1)}, "run_at"),
        ({"expires_at": make.AT}, "expires_at"),
        ({"expires_at": LAST + timedelta(seconds=1)}, "expires_at"),
        ({"run_at": make.at(60), "expires_at": make.at(60)}, "expires_at"),
    ],
)
def test_times_that_cannot_be_kept_are_refused(fields: Any, param: str) -> None:
    with pytest.raises(RefusedError) as refused:
        decide_times(order(**fields), make.AT, CONFIG)

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", param)


@pytest.mark.parametrize(
    ("operation", "asked", "needs"),
    [
        ("chat", {"messages": [{"role": "user", "content": "a"}]}, True),
        ("complete", {"prompt": "a", "temperature": 1}, True),
        ("chat", {"prompt": "a", "temperature": 0}, False),
        ("chat", {"prompt": "a", "seed": 3}, False),
        ("tokenize", {"prompt": "a"}, False),
        ("detokenize", {"tokens": [1]}, False),
    ],
)
def test_what_is_sampled_needs_a_seed(operation: str, asked: Any, needs: bool) -> None:
    assert check_order(order(operation=operation, input=asked), CHAT) is needs


@pytest.mark.parametrize("operation", ["chat", "complete", "tokenize", "detokenize"])
def test_embedding_model_only_embeds(operation: Any) -> None:
    with pytest.raises(RefusedError) as refused:
        check_order(order(operation=operation), EMBED)

    assert refused.value.failure.param == "operation"
    assert check_order(order(operation="embed", input={"input": "a"}), EMBED) is False


@pytest.mark.parametrize("operation", ["chat", "embed"])
def test_reranker_only_reranks(operation: Any) -> None:
    with pytest.raises(RefusedError) as refused:
        check_order(order(operation=operation), RERANK)

    asked = {"query": "a", "documents": ["b"]}
    assert refused.value.failure.param == "operation"
    assert check_order(order(operation="rerank", input=asked), RERANK) is False
    with pytest.raises(RefusedError) as refused:
        check_order(order(operation="rerank", input=asked | {"documents": []}), RERANK)
    assert refused.value.failure.param == "input.documents"
