"""Reads documents for parsing.py: `python -m actors.rag.parsing_child BYTES`, within the limits of limited_child.py."""

import sys
from typing import assert_never

import msgspec

from actors.limited_child import UnreadableError, serve
from actors.rag.contents import Heading, Parsed
from actors.rag.parsing_kind import kind_of
from actors.rag.parsing_task import Task
from actors.rag.parsing_text import parse_text

_MISSING = "This server cannot read such documents: {} is missing. It comes with pip install 'mlx-fusion[rag]'."

_encode = msgspec.msgpack.Encoder().encode


def _do(task: Task) -> tuple[None, list[bytes]]:
    try:
        parsed = _parsed(task)
    except ModuleNotFoundError as error:
        raise UnreadableError(_MISSING.format(error.name)) from error
    if not parsed.text.strip():
        raise UnreadableError("It has no text.")
    size = len(parsed.text.encode())
    if size > task.most_text_bytes:
        raise UnreadableError(f"Its text has {size} bytes; the limit is {task.most_text_bytes}.")
    return None, [_encode(_titled(parsed))]


def _parsed(task: Task) -> Parsed:
    # Each is imported at the first task that needs it: all together take more than a second.
    match kind := kind_of(task):
        case "pdf":
            from actors.rag.parsing_pdf import parse_pdf  # noqa: PLC0415 - as said above

            return parse_pdf(task)
        case "docx":
            from actors.rag.parsing_docx import parse_docx  # noqa: PLC0415 - as said above

            return parse_docx(task)
        case "html":
            from actors.rag.parsing_html import parse_html  # noqa: PLC0415 - as said above

            return parse_html(task)
        case "markdown":
            from actors.rag.parsing_markdown import parse_markdown  # noqa: PLC0415 - as said above

            return parse_markdown(task)
        case "text":
            return parse_text(task)
        case _:
            assert_never(kind)


def _titled(parsed: Parsed) -> Parsed:
    """Return it with its first outermost heading as the title, if it says none."""
    outermost: Heading | None = min(parsed.headings, key=lambda heading: heading.level, default=None)
    if outermost is None or "title" in parsed.metadata:
        return parsed
    metadata = {"title": outermost.title, **parsed.metadata}
    return Parsed(text=parsed.text, pages=parsed.pages, headings=parsed.headings, metadata=metadata)


if __name__ == "__main__":
    serve(Task, _do, int(sys.argv[1]))
