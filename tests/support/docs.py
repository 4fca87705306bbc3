"""The documentation, as the tests look into it."""

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    """Return the text of one page."""
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Return what stands below `heading`, up to the next heading that is not below it."""
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, heading
    level = len(heading) - len(heading.lstrip("#"))
    return re.split(rf"\n#{{1,{level}}} ", rest, maxsplit=1)[0]


def unnamed(names: Iterable[str], text: str) -> list[str]:
    """Return those of `names` that do not stand in `text` as code."""
    return [name for name in names if f"`{name}`" not in text]
