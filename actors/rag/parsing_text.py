"""From bytes to clean text, and plain texts."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from charset_normalizer import from_bytes

from actors.limited_child import UnreadableError
from actors.rag.contents import Parsed
from actors.rag.parsing_kind import utf16_of
from actors.rag.parsing_task import Task

# Longer first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
# Enough to know an encoding by, and too little: of a few letters any could be meant.
_SAMPLE_BYTES = 64 * 1024
_TELLING_BYTES = 16

_LINE_END = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_ASCII = bytes(range(128))
_TITLE_CHARACTERS = 300


def parse_text(task: Task) -> Parsed:
    """Return the text of a file that is nothing else. Raises `UnreadableError`."""
    return Parsed(text=cleaned(read(task)))


def read(task: Task, *, is_html: bool = False) -> str:
    """Return what the file says. HTML may tell its encoding itself, which is believed when it is no UTF-8."""
    content = Path(task.path).read_bytes()
    # Most have a byte per character at least; UTF-16 two.
    if len(content) > 2 * task.most_text_bytes:
        raise UnreadableError(f"It has {len(content)} bytes; the limit for a text is {task.most_text_bytes}.")
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    for encoding in _encodings(content, task.content_type or "", is_html):
        try:
            return content.decode(encoding)
        except (UnicodeError, LookupError):
            continue
    return content.decode("cp1252", errors="replace")


def cleaned(text: str) -> str:
    """Return it with a line feed for each end of a line, and without what is no character of a text."""
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", _LINE_END.sub("\n", text)))


def one_line(text: str) -> str:
    """Return a title or a name, cleaned, on one line and not longer than such a thing is."""
    return " ".join(cleaned(text).split())[:_TITLE_CHARACTERS]


def _encodings(content: bytes, content_type: str, is_html: bool) -> Iterator[str]:
    if utf16 := utf16_of(content):
        yield utf16
    yield "utf-8"
    sample = content[:_SAMPLE_BYTES]
    for said in (content_type, sample.decode("latin-1") if is_html else ""):
        if found := _CHARSET.search(said):
            yield found[1]
    if len(sample.translate(None, _ASCII)) >= _TELLING_BYTES and (match := from_bytes(sample).best()):
        yield match.encoding
