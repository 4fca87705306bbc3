"""The tables of the history, and the views that answer what is often asked."""

from typing import Literal

from msgspec import Struct

Sort = Literal["created_at", "-created_at", "completed_at", "-completed_at"]
Bucket = Literal["hour", "day"]

# To be counted up with every change of the tables or views.
VERSION = 5

_TABLES = f"""
CREATE TABLE IF NOT EXISTS schema_version (version INTEGER);
CREATE TABLE IF NOT EXISTS checkpoint (seq BIGINT);
CREATE TABLE IF NOT EXISTS events (seq BIGINT, recorded_at TIMESTAMP, type VARCHAR, subject_id VARCHAR, body VARCHAR);
CREATE TABLE IF NOT EXISTS jobs (
    job_id VARCHAR PRIMARY KEY, status VARCHAR, model VARCHAR, operation VARCHAR, priority VARCHAR,
    created_at TIMESTAMP, input_blob VARCHAR, metadata VARCHAR, attempts INTEGER, cancel_requested BOOLEAN,
    started_at TIMESTAMP, completed_at TIMESTAMP, result_blob VARCHAR, prompt_tokens BIGINT,
    completion_tokens BIGINT, error VARCHAR, error_code VARCHAR, error_param VARCHAR, reason VARCHAR,
    queued_at TIMESTAMP, run_at TIMESTAMP, expires_at TIMESTAMP, run_timeout DOUBLE, max_attempts BIGINT, seed BIGINT,
    revision VARCHAR, callback_url VARCHAR, key VARCHAR, replay_of VARCHAR, batch_id VARCHAR
);
CREATE TABLE IF NOT EXISTS attempts (
    job_id VARCHAR, attempt INTEGER, actor VARCHAR, revision VARCHAR, started_at TIMESTAMP, ended_at TIMESTAMP,
    outcome VARCHAR, error VARCHAR, PRIMARY KEY (job_id, attempt)
);
CREATE TABLE IF NOT EXISTS requests (
    request_id VARCHAR, recorded_at TIMESTAMP, model VARCHAR, operation VARCHAR, outcome VARCHAR, queued DOUBLE,
    first DOUBLE, total DOUBLE, prompt_tokens BIGINT, completion_tokens BIGINT, cached_tokens BIGINT, key VARCHAR
);
CREATE TABLE IF NOT EXISTS models (
    model VARCHAR, instance VARCHAR, what VARCHAR, recorded_at TIMESTAMP, seconds DOUBLE, bytes BIGINT, why VARCHAR
);
CREATE TABLE IF NOT EXISTS deliveries (
    delivery_id VARCHAR PRIMARY KEY, webhook_id VARCHAR, job_id VARCHAR, event VARCHAR, url VARCHAR, status VARCHAR,
    attempts BIGINT, http_status BIGINT, last_error VARCHAR, seq BIGINT, scheduled_at TIMESTAMP, due_at TIMESTAMP,
    attempted_at TIMESTAMP, ended_at TIMESTAMP
);
INSERT INTO checkpoint SELECT 0 WHERE NOT EXISTS (FROM checkpoint);
INSERT INTO schema_version SELECT {VERSION} WHERE NOT EXISTS (FROM schema_version);
"""

# Each with the column that tells how old a row is.
TABLES = {
    "events": "recorded_at",
    "jobs": "created_at",
    "attempts": "started_at",
    "requests": "recorded_at",
    "models": "recorded_at",
    "deliveries": "scheduled_at",
}


class View(Struct, frozen=True, kw_only=True):
    """A question that is often asked.

    Its rows are by `bucket`, the beginning of an hour or a day of UTC, and by model; with `has_key` by API key too.
    """

    about: str
    bucket: Bucket
    sql: str
    has_key: bool = False


VIEWS = {
    "throughput": View(
        about="jobs and requests that ended, per hour and model",
        bucket="hour",
        sql="""
            SELECT hour, model, sum(jobs) AS jobs, sum(jobs_completed) AS jobs_completed, sum(requests) AS requests,
                sum(requests_completed) AS requests_completed
            FROM (
                SELECT date_trunc('hour', completed_at) AS hour, model, count(*) AS jobs,
                    count_if(status = 'completed') AS jobs_completed, 0 AS requests, 0 AS requests_completed
                FROM jobs WHERE completed_at IS NOT NULL GROUP BY ALL
                UNION ALL
                SELECT date_trunc('hour', recorded_at), model, 0, 0, count(*), count_if(outcome = 'completed')
                FROM requests GROUP BY ALL
            ) GROUP BY hour, model
        """,
    ),
    "queue_time": View(
        about="seconds from queued to the first start of a job, per day, model and priority",
        bucket="day",
        sql="""
            SELECT day, model, priority, count(*) AS jobs, quantile_cont(waited, 0.5) AS p50,
                quantile_cont(waited, 0.95) AS p95, quantile_cont(waited, 0.99) AS p99
            FROM (
                SELECT CAST(started_at AS DATE) AS day, model, priority, epoch(started_at) - epoch(queued_at) AS waited
                FROM jobs WHERE started_at IS NOT NULL AND queued_at IS NOT NULL
            ) GROUP BY day, model, priority
        """,
    ),
    "first_token": View(
        about="seconds to the first piece of an answer, per day, model and operation",
        bucket="day",
        sql="""
            SELECT CAST(recorded_at AS DATE) AS day, model, operation, count(*) AS requests,
                quantile_cont(first, 0.5) AS p50, quantile_cont(first, 0.95) AS p95, quantile_cont(first, 0.99) AS p99
            FROM requests WHERE first IS NOT NULL GROUP BY ALL
        """,
    ),
    "tokens_per_second": View(
        about="how fast answers are written after their first token, per day and model; p5 is the slow end",
        bucket="day",
        sql="""
            SELECT day, model, count(*) AS requests, sum(tokens) AS completion_tokens,
                sum(tokens - 1) / sum(seconds) AS mean, quantile_cont((tokens - 1) / seconds, 0.5) AS p50,
                quantile_cont((tokens - 1) / seconds, 0.05) AS p5
            FROM (
                SELECT CAST(recorded_at AS DATE) AS day, model, completion_tokens AS tokens, total - first AS seconds
                FROM requests WHERE completion_tokens > 1 AND total > first
            ) GROUP BY day, model
        """,
    ),
    "failures": View(
        about="jobs that failed, by reason, and requests that did not complete, by outcome, per day and model",
        bucket="day",
        sql="""
            SELECT CAST(completed_at AS DATE) AS day, model, 'job' AS kind, reason AS cause, count(*) AS count
            FROM jobs WHERE status = 'failed' GROUP BY ALL
            UNION ALL
            SELECT CAST(recorded_at AS DATE), model, 'request', outcome, count(*)
            FROM requests WHERE outcome <> 'completed' GROUP BY ALL
        """,
    ),
    "usage": View(
        about="requests, tokens and seconds, per day, API key and model",
        bucket="day",
        has_key=True,
        sql="""
            SELECT CAST(recorded_at AS DATE) AS day, coalesce(key, 'anonymous') AS key, model, count(*) AS requests,
                sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
                sum(cached_tokens) AS cached_tokens, sum(total) AS seconds
            FROM requests GROUP BY ALL
        """,
    ),
}

SCHEMA = _TABLES + "".join(f"CREATE VIEW IF NOT EXISTS {name} AS {view.sql};\n" for name, view in VIEWS.items())
