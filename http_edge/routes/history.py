"""/api/history: what the history adds up to, in ready-made views, in SQL, and as Parquet files."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bus.errors import LostError
from bus.messages.history import (
    ExportHistory,
    HistoryStats,
    HistoryTable,
    Limit,
    ListViews,
    QueryHistory,
)
from bus.subjects import EXPORT_HISTORY, HISTORY_STATS, LIST_VIEWS, QUERY_HISTORY
from http_edge.context import BLOBS, BUS
from http_edge.wire import json_response, read_body, read_query

# The historian ends what takes longer than 5 s, an export after 60 s, and says so.
_PATIENCE = 40.0
_EXPORT_PATIENCE = 75.0


class Rows(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows of a view a client wants."""

    since: datetime | None = None
    until: datetime | None = None
    model_id: str | None = None
    key: str | None = None
    limit: Limit = 1000


class ViewRows(Struct, frozen=True, kw_only=True):
    """Rows of a view, the latest hour or day first."""

    view: str
    rows: tuple[dict[str, Any], ...]
    truncated: bool
    as_of: int


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One SELECT in the SQL of DuckDB."""

    sql: Annotated[str, Meta(min_length=1, max_length=100_000)]
    limit: Limit = 1000


async def list_views(request: web.Request) -> web.StreamResponse:
    """List the views, and the tables behind them."""
    views = await request.app[BUS].ask(LIST_VIEWS(), ListViews())
    return json_response(views)


async def view(request: web.Request) -> web.StreamResponse:
    """Tell what a view has."""
    wanted, name = read_query(request, Rows), request.match_info["view"]
    query = HistoryStats(
        view=name,
        since=wanted.since,
        until=wanted.until,
        model=wanted.model_id,
        key=wanted.key,
        limit=wanted.limit,
    )
    found = await request.app[BUS].ask(HISTORY_STATS(), query, patience=_PATIENCE)
    rows = tuple(dict(zip(found.columns, row, strict=True)) for row in found.rows)
    return json_response(ViewRows(view=name, rows=rows, truncated=found.truncated, as_of=found.as_of))


async def query(request: web.Request) -> web.StreamResponse:
    """Run one SELECT on a copy of the history."""
    body = await read_body(request, _body)
    asked = QueryHistory(sql=body.sql, limit=body.limit)
    found: HistoryTable = await request.app[BUS].ask(QUERY_HISTORY(), asked, patience=_PATIENCE)
    return json_response(found)


async def export(request: web.Request) -> web.StreamResponse:
    """Download a table or view as a Parquet file."""
    table = request.match_info["table"]
    exported = await request.app[BUS].ask(EXPORT_HISTORY(), ExportHistory(table=table), patience=_EXPORT_PATIENCE)
    content = await request.app[BLOBS].get(exported.blob)
    if content is None:
        raise LostError("unavailable", f"The file of {table!r} is not on this machine.")
    return web.Response(
        body=content,
        content_type="application/vnd.apache.parquet",
        headers={"Content-Disposition": f'attachment; filename="{exported.table}.parquet"'},
    )


_body = msgspec.json.Decoder(Body)

ROUTES = [
    web.get("/api/history", list_views),
    web.post("/api/history/query", query),
    web.get("/api/history/export/{table}", export),
    web.get("/api/history/{view}", view),
]
