import pytest

from cli.table import size, table


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_600, "1 MB"),
        (1_667_328, "1.67 MB"),
        (16 * 2**30, "17.18 GB"),
    ],
)
def test_sizes_are_shown_in_the_largest_unit_that_fits(count: int | None, shown: str) -> None:
    assert size(count) == shown


def test_columns_are_aligned_and_lines_end_without_blanks() -> None:
    assert table([("MODEL", "STATE"), ("a", "ready"), ("longer", "–")]) == "MODEL   STATE\na       ready\nlonger  –"
