import pytest

from bench.figures import figures, percentile, table
from bench.load import Outcome, Run


def outcome(first: float = 0.01, tokens: int = 3, error: str | None = None) -> Outcome:
    return Outcome(total=0.1, first=first, gaps=(0.002, 0.004), tokens=tokens, error=error)


def test_percentiles_are_interpolated_between_what_was_measured() -> None:
    assert percentile([1, 2, 3, 4, 5], 50) == 3
    assert percentile([0, 100], 99) == pytest.approx(99)
    assert (percentile([7], 99), percentile([], 50)) == (7, 0)


def test_rates_are_the_median_of_the_rounds_and_count_only_what_went_well() -> None:
    failed = Run(outcomes=(outcome(error="status 429", tokens=0),), seconds=1)
    runs = [Run(outcomes=(outcome(), outcome()), seconds=1), failed]

    found = figures(runs, cpu_seconds=0.012, rss_mb=50)

    assert (found.requests, found.errors, found.causes) == (2, 1, {"status 429": 1})
    assert (found.requests_s, found.tokens_s) == (1, 3)
    assert found.first_p50 == pytest.approx(10)
    assert found.gap_p50 == pytest.approx(3)
    assert found.cpu_per_token == pytest.approx(2)


def test_table_has_a_row_of_ratios_for_each_level() -> None:
    fast = figures([Run(outcomes=(outcome(first=0.01),), seconds=1)], cpu_seconds=0.003, rss_mb=10)
    slow = figures([Run(outcomes=(outcome(first=0.02),), seconds=2)], cpu_seconds=0.006, rss_mb=20)

    lines = table({(1, "a"): fast, (1, "b"): slow}, "a", "b").splitlines()

    assert len(lines) == 5
    assert lines[4].startswith("| 1 | *ratio* |  |  | *2.00* | *2.00* | *0.50* |")
    assert {line.count("|") for line in lines} == {14}
