"""From outcomes to figures, and from figures to a table."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct

from bench.load import Run


class Figures(Struct, frozen=True, kw_only=True):
    """What one server did under one load: percentiles over all rounds, rates as the median of the rounds.

    Times in milliseconds, `rss_mb` of all its processes.
    """

    requests: int
    errors: int
    requests_s: float
    tokens_s: float
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    total_p50: float
    total_p95: float
    cpu_per_token: float
    rss_mb: float
    causes: dict[str, int] = {}


# The columns of a table: a figure, its heading, and the number of decimals.
Columns = tuple[tuple[str, str, int], ...]
COLUMNS: Columns = (
    ("requests", "requests", 0),
    ("errors", "errors", 0),
    ("requests_s", "requests/s", 1),
    ("tokens_s", "tokens/s", 0),
    ("first_p50", "first p50 ms", 1),
    ("first_p99", "first p99 ms", 1),
    ("gap_p50", "gap p50 ms", 2),
    ("gap_p99", "gap p99 ms", 1),
    ("total_p50", "whole p50 ms", 1),
    ("cpu_per_token", "CPU ms/token", 2),
    ("rss_mb", "RSS MB", 0),
)


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the percentile, interpolated; 0 of nothing."""
    known = list(values)
    if len(known) < 2:
        return known[0] if known else 0.0
    return statistics.quantiles(known, n=100, method="inclusive")[percent - 1]


def figures(runs: Iterable[Run], cpu_seconds: float, rss_mb: float) -> Figures:
    """Return the figures of `runs` taken together; `cpu_seconds` is what the server's processes used in them."""
    runs = list(runs)
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    good = [outcome for outcome in outcomes if outcome.error is None]
    tokens = sum(outcome.tokens for outcome in good)
    firsts = [outcome.first * 1000 for outcome in good]
    gaps = [gap * 1000 for outcome in good for gap in outcome.gaps]
    totals = [outcome.total * 1000 for outcome in good]
    return Figures(
        requests=len(good),
        errors=len(outcomes) - len(good),
        requests_s=statistics.median(_good(run) / run.seconds for run in runs),
        tokens_s=statistics.median(sum(each.tokens for each in run.outcomes) / run.seconds for run in runs),
        first_p50=percentile(firsts, 50),
        first_p99=percentile(firsts, 99),
        gap_p50=percentile(gaps, 50),
        gap_p99=percentile(gaps, 99),
        total_p50=percentile(totals, 50),
        total_p95=percentile(totals, 95),
        cpu_per_token=cpu_seconds * 1000 / max(tokens, 1),
        rss_mb=rss_mb,
        causes=dict(Counter(outcome.error for outcome in outcomes if outcome.error)),
    )


def _good(run: Run) -> int:
    return sum(outcome.error is None for outcome in run.outcomes)


def table(found: Mapping[tuple[int, str], Figures], ours: str, *others: str, columns: Columns = COLUMNS) -> str:
    """Return a Markdown table: for each number of requests at once all servers, and ours over each of the others."""
    lines = [
        "| at once | server | " + " | ".join(heading for _, heading, _ in columns) + " |",
        "| " + " | ".join(["---"] * (len(columns) + 2)) + " |",
    ]
    for at_once in sorted({level for level, _ in found}):
        lines.append(_row(at_once, ours, found[at_once, ours], columns))
        for other in others:
            lines.append(_row(at_once, other, found[at_once, other], columns))
            lines.append(_ratios(at_once, found[at_once, ours], found[at_once, other], columns))
    return "\n".join(lines)


def _row(at_once: int, name: str, known: Figures, columns: Columns) -> str:
    cells = [f"{getattr(known, field):.{decimals}f}" for field, _, decimals in columns]
    return f"| {at_once} | {name} | {' | '.join(cells)} |"


def _ratios(at_once: int, ours: Figures, other: Figures, columns: Columns) -> str:
    cells = [_ratio(field, getattr(ours, field), getattr(other, field)) for field, _, _ in columns]
    return f"| {at_once} | *ratio* | {' | '.join(cells)} |"


def _ratio(field: str, ours: float, other: float) -> str:
    return "" if field in {"requests", "errors"} or not other else f"*{ours / other:.2f}*"
