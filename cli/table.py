"""Columns and sizes, for people to read."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return the rows as lines with aligned columns, two blanks apart."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def counted(count: int, thing: str) -> str:
    """Return how many there are of it: 1 chunk, 2 chunks."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def size(count: float | None) -> str:
    """Return a number of bytes with three digits or so: 1.53 GB. GB are 10⁹ bytes."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def content(folder: Path) -> tuple[int, int]:
    """Return how many files lie in `folder` and below, and how many bytes they have."""
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return len(sizes), sum(sizes)
