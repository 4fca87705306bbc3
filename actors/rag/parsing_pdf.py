"""PDF: its text page by page, and its outline as headings. Pictures of text are not read."""

import re
from collections.abc import Callable
from functools import partial
from itertools import islice

from pypdfium2 import PdfDocument, PdfiumError
from pypdfium2.raw import FPDF_ERR_PASSWORD

from actors.limited_child import UnreadableError
from actors.rag.contents import Heading, Parsed
from actors.rag.parsing_task import Task
from actors.rag.parsing_text import cleaned, one_line
from bus.messages.rag import Metadata

_MOST_HEADINGS = 10_000
# PDFium's mark of a hyphen that ends a line within a word.
_HYPHENATED = re.compile("[\x02\ufffe](?:\r?\n)?")
# ISO 32000-1, 7.9.4: D:YYYYMMDDHHmmSSOHH'mm, of which all but the year may be missing.
_DATE = re.compile(r"D?:?(\d{4})(\d\d)?(\d\d)?(?:(\d\d)(\d\d)(\d\d)?)?(?:([+-])(\d\d)'?(\d\d)?|(Z))?")


def parse_pdf(task: Task) -> Parsed:
    """Return the text of the file, with an empty line between pages. Raises `UnreadableError`."""
    try:
        with PdfDocument(task.path) as document:
            return _parsed(document, task)
    except PdfiumError as error:
        if error.err_code == FPDF_ERR_PASSWORD:
            raise UnreadableError("It is encrypted: it needs a password.") from error
        raise UnreadableError("It is broken, or not whole.") from error


def _parsed(document: PdfDocument, task: Task) -> Parsed:
    if len(document) > task.most_pages:
        raise UnreadableError(f"It has {len(document)} pages; the limit is {task.most_pages}.")
    texts: list[str] = []
    starts: list[int] = []
    length = 0
    for number in range(len(document)):
        texts.append(_page(document, number))
        starts.append(length)
        length += len(texts[-1]) + 2
        if length > task.most_text_bytes:
            raise UnreadableError(f"Its text is longer than {task.most_text_bytes} bytes.")
    if not any(text.strip() for text in texts):
        raise UnreadableError(
            f"None of its {len(texts)} pages has text: perhaps they are scanned, and such are not read."
        )
    headings = _headings(document, texts, starts)
    return Parsed(text="\n\n".join(texts), pages=tuple(starts), headings=headings, metadata=_metadata(document))


def _page(document: PdfDocument, number: int) -> str:
    page = document[number]
    try:
        text = page.get_textpage()
        try:
            return cleaned(_HYPHENATED.sub("", text.get_text_bounded()))
        finally:
            text.close()
    finally:
        page.close()


def _headings(document: PdfDocument, texts: list[str], starts: list[int]) -> tuple[Heading, ...]:
    """Return the outline: each where its title stands on its page, or where that begins."""
    found = []
    for mark in islice(document.get_toc(), _MOST_HEADINGS):
        target = mark.get_dest()
        page = None if target is None else target.get_index()
        title = _said(mark.get_title)
        if title and page is not None and 0 <= page < len(texts):
            place = re.search(r"\s+".join(map(re.escape, title.split())), texts[page])
            found.append(Heading(starts[page] + (place.start() if place else 0), mark.level + 1, title))
    return tuple(sorted(found, key=lambda heading: heading.offset))


def _metadata(document: PdfDocument) -> Metadata:
    said = {
        "title": _said(partial(document.get_metadata_value, "Title")),
        "author": _said(partial(document.get_metadata_value, "Author")),
        "date": _date(_said(partial(document.get_metadata_value, "CreationDate")))
        or _date(_said(partial(document.get_metadata_value, "ModDate"))),
    }
    return {name: value for name, value in said.items() if value}


def _said(read: Callable[[], str]) -> str:
    """Return what `read` gives, on one line; nothing if it is no UTF-16."""
    try:
        return one_line(read())
    except UnicodeDecodeError:
        return ""


def _date(said: str) -> str:
    """Return it in ISO 8601, as far as it is there; nothing if it is no date."""
    match = _DATE.match(said)
    if match is None:
        return ""
    year, month, day, hour, minute, second, sign, hours, minutes, utc = match.groups()
    date = "-".join(part for part in (year, month, month and day) if part)
    if not (day and hour):
        return date
    zone = "+00:00" if utc else f"{sign}{hours}:{minutes or '00'}" if sign else ""
    return f"{date}T{hour}:{minute}:{second or '00'}{zone}"
