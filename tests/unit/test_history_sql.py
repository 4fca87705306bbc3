"""SQL on a copy of the history: what selects is answered, and nothing else is done."""

from pathlib import Path

import pytest

from eventlog.history import History
from eventlog.history_query import Table
from eventlog.history_sql import Answer, Question, answer
from tests.support import make


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "history.duckdb"
    history = History(path)
    history.ingest(make.entries(*(make.job_queued(job_id=f"job-{n}") for n in range(3))))
    history.close()
    return path


def asked(copy: Path, sql: str, limit: int = 10, most_bytes: int = 1000) -> Answer:
    return answer(copy, Question(sql=sql, limit=limit, most_bytes=most_bytes))


def selected(copy: Path, sql: str, limit: int = 10, most_bytes: int = 1000) -> Table:
    found = asked(copy, sql, limit, most_bytes)
    assert found.table is not None, found.error
    return found.table


@pytest.mark.parametrize(
    ("sql", "columns", "rows"),
    [
        ("SELECT job_id FROM jobs ORDER BY 1", ("job_id",), (("job-0",), ("job-1",), ("job-2",))),
        ("select count(*) as n from events;", ("n",), ((3,),)),
        ("select count(*) as n from events -- all of them", ("n",), ((3,),)),
        ("WITH few AS (SELECT 1 AS x) SELECT x, x + 1 AS y FROM few", ("x", "y"), ((1, 2),)),
        ("FROM usage", ("day", "key", "model"), ()),
        ("VALUES (1), (2)", ("col0",), ((1,), (2,))),
    ],
)
def test_what_selects_is_answered(copy: Path, sql: str, columns: tuple[str, ...], rows: tuple[object, ...]) -> None:
    found = selected(copy, sql)

    assert found.columns[: len(columns)] == columns
    assert found.rows == rows
    assert not found.truncated


def test_tables_can_be_listed_and_described(copy: Path) -> None:
    tables = selected(copy, "SHOW TABLES", limit=100)
    columns = selected(copy, "DESCRIBE jobs", limit=100, most_bytes=10_000)

    assert {("jobs",), ("attempts",), ("throughput",)} <= set(tables.rows)
    assert "job_id" in {row[0] for row in columns.rows}


def test_values_are_told_as_json_has_them(copy: Path) -> None:
    sql = """
        SELECT 2::HUGEINT ** 100 IS NOT NULL, 170141183460469231731687303715884105727, 'ab'::BLOB, {'a': [1, NULL]},
            MAP {1: 'x'}, INTERVAL 1 MINUTE, 1.5::DECIMAL(3, 1), TIMESTAMP '2026-01-02 03:04:05', DATE '2026-01-02'
    """

    [row] = selected(copy, sql).rows

    assert row[:7] == (True, str(2**127 - 1), "YWI=", {"a": [1, None]}, {"1": "x"}, 60.0, 1.5)
    assert [value.isoformat() for value in row[7:]] == ["2026-01-02T03:04:05+00:00", "2026-01-02"]


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "-- nothing",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE jobs",
        "DROP TABLE jobs",
        "DELETE FROM jobs",
        "UPDATE jobs SET model = 'x'",
        "CREATE TABLE mine AS SELECT 1",
        "COPY jobs TO '{folder}/stolen.csv'",
        "EXPORT DATABASE '{folder}'",
        "ATTACH '{folder}/other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET memory_limit = '100GB'",
        "RESET memory_limit",
        "CALL enable_logging('QueryLog')",
        "CHECKPOINT",
        "EXPLAIN ANALYZE DELETE FROM jobs",
        "PREPARE mine AS DELETE FROM jobs",
    ],
)
def test_what_is_not_one_select_is_refused(copy: Path, sql: str) -> None:
    found = asked(copy, sql.format(folder=copy.parent))

    assert found == Answer(error="Only one statement is run, and only one that selects.")
    assert [path.name for path in copy.parent.iterdir()] == ["history.duckdb"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM '/etc/passwd.csv'",
        "SELECT * FROM read_parquet('http://127.0.0.1:9/x.parquet')",
        "SELECT * FROM read_json('s3://bucket/x.json')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM read_duckdb('/etc/passwd')",
        "SELECT getenv('HOME')",
        "SELECT * FROM question",
        "SELECT * FROM copy",
        "FROM query('DROP TABLE jobs')",
        "FROM query('COPY jobs TO ''/tmp/stolen.csv''')",
        "SELECT * FROM enable_logging('QueryLog', storage_path = '/tmp/stolen')",
        "SELECT * FROM force_checkpoint()",
        "WITH gone AS (DELETE FROM jobs RETURNING *) SELECT * FROM gone",
        "SELECT 1) UNION (SELECT 2",
        "SELECT ?",
        "SELEC 1",
        "SELECT nothing FROM nowhere",
        "SELECT '" + "(" * 3000,
        "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    ],
)
def test_what_is_outside_of_the_history_is_not_reached(copy: Path, sql: str) -> None:
    found = asked(copy, sql)

    assert found.table is None
    assert found.error
    assert [path for path in ("/etc", "stolen", str(copy.parent)) if path in found.error] == []
    assert selected(copy, "SELECT count(*) FROM jobs").rows == ((3,),)


def test_what_is_wrong_is_told(copy: Path) -> None:
    found = asked(copy, "SELECT modl FROM jobs")

    assert found.error
    assert 'Referenced column "modl" not found' in found.error


@pytest.mark.parametrize("sql", ["SELECT now()", "SELECT 1, [now()]", "SELECT {'at': now()}"])
def test_moment_with_a_time_zone_is_to_be_cast(copy: Path, sql: str) -> None:
    assert asked(copy, sql).error == "A moment with a time zone cannot be told: cast it to TIMESTAMP."
    assert selected(copy, "SELECT now()::TIMESTAMP").rows


@pytest.mark.parametrize(("limit", "most_bytes", "count"), [(2, 1000, 2), (3, 1000, 3), (100, 1000, 3), (3, 25, 2)])
def test_rows_are_cut_at_the_limit_and_at_the_size(copy: Path, limit: int, most_bytes: int, count: int) -> None:
    found = selected(copy, "SELECT job_id FROM jobs ORDER BY 1", limit, most_bytes)

    assert found.rows == tuple((f"job-{n}",) for n in range(count))
    assert found.truncated == (count < 3)


def test_row_that_is_too_large_alone_is_refused(copy: Path) -> None:
    found = asked(copy, "SELECT repeat('x', 2000)")

    assert found.error == "One row is 2004 bytes; all together may be 1000."
