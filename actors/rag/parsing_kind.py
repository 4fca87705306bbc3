"""What a file is: by its first bytes, else by the type it is said to have, else by its name."""

import zipfile
from pathlib import Path, PurePath
from typing import Literal

from actors.limited_child import UnreadableError
from actors.rag.parsing_task import Task

Kind = Literal["pdf", "docx", "html", "markdown", "text"]

_READ = "Read are PDF, DOCX, HTML, Markdown, and plain text, such as source code, CSV and JSON."

_DOCX_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_TYPES: dict[str, Kind] = {
    "application/pdf": "pdf",
    _DOCX_TYPE: "docx",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
}
_SUFFIXES: dict[str, Kind] = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdown": "markdown",
    ".mkd": "markdown",
}
_OTHER_TYPES = ("audio/", "font/", "image/", "video/")

# What may stand before anything.
_BEFORE = b"\xef\xbb\xbf \t\r\n"
# By how they begin.
_OTHERS = {b"{\\rtf": "RTF", b"%!PS": "PostScript", b"\xd0\xcf\x11\xe0": "an encrypted or an old Office file"}

_HEAD_BYTES = 64 * 1024
# Of a text at most so many bytes are control characters; of random bytes every ninth is one.
_CONTROL_SHARE = 0.04
_CONTROL = bytes({*range(32), 127} - set(b"\t\n\f\r\x1b"))
# A byte of every UTF-16 letter of Latin texts is 0: so many of those in even, or in odd places.
_UTF16_SHARE = 0.4


def kind_of(task: Task) -> Kind:
    """Return what the file is. Raises `UnreadableError` if it is nothing that is read."""
    with Path(task.path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise UnreadableError("It is empty.")
    if head.lstrip(_BEFORE).startswith(b"%PDF-"):
        return "pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive(task.path)
    kind = _said(task, head)
    # Many readers allow for other bytes before it.
    if kind == "pdf" and b"%PDF-" in head[:1024]:
        return kind
    if kind in {"pdf", "docx"}:
        raise UnreadableError(f"It is no {kind.upper()}, as its name or type says, or it is broken.")
    for begin, name in _OTHERS.items():
        if head.startswith(begin):
            raise UnreadableError(f"It is {name}. {_READ}")
    if not head.startswith((b"\xff\xfe", b"\xfe\xff")) and _is_binary(head):
        raise UnreadableError(f"It is neither a text nor a document of a known kind. {_READ}")
    return kind


def utf16_of(content: bytes) -> Literal["utf-16-le", "utf-16-be"] | None:
    """Return which UTF-16 a text without a byte order mark is, if it looks like one."""
    head = content[:_HEAD_BYTES]
    even, odd = head[::2].count(0), head[1::2].count(0)
    many = max(1, int(_UTF16_SHARE * (len(head) // 2)))
    if odd >= many and even * 10 <= odd:
        return "utf-16-le"
    if even >= many and odd * 10 <= even:
        return "utf-16-be"
    return None


def _archive(path: str) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise UnreadableError("It is broken, or not whole.") from error
    if "word/document.xml" not in names:
        raise UnreadableError(f"It is a ZIP archive, but no DOCX. {_READ}")
    return "docx"


def _said(task: Task, head: bytes) -> Kind:
    said = (task.content_type or "").partition(";")[0].strip().lower()
    if said.startswith(_OTHER_TYPES):
        raise UnreadableError(f"It is said to be {said}. {_READ}")
    kind = _TYPES.get(said) or _SUFFIXES.get(PurePath(task.filename).suffix.lower())
    if kind:
        return kind
    begin = head.lstrip(_BEFORE)[:100].lower()
    return "html" if begin.startswith((b"<!doctype html", b"<html")) else "text"


def _is_binary(head: bytes) -> bool:
    if utf16 := utf16_of(head):
        head = head.decode(utf16, errors="replace").encode()
    return len(head) - len(head.translate(None, _CONTROL)) > _CONTROL_SHARE * len(head)
