"""DOCX: its paragraphs and tables; headings are known by their styles. Footnotes, comments and headers are left out."""

import zipfile
import zlib
from collections.abc import Iterator
from datetime import datetime

from docx import Document
from docx.document import Document as OpenDocument
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.exceptions import OpcError
from docx.oxml.ns import qn
from lxml.etree import LxmlError, _Element, iterwalk

from actors.limited_child import UnreadableError
from actors.rag.contents import Heading, Parsed
from actors.rag.parsing_task import Task
from actors.rag.parsing_text import cleaned, one_line
from bus.messages.rag import Metadata

_MOST_PARTS = 10_000
_DAMAGED = (OpcError, LxmlError, zipfile.BadZipFile, zlib.error, OSError, NotImplementedError)
# What python-docx and zipfile raise where a part is not as they expect.
_BROKEN = (*_DAMAGED, AttributeError, KeyError, TypeError, ValueError)

_PARAGRAPH, _TABLE, _ROW, _CELL, _TEXT = map(qn, ("w:p", "w:tbl", "w:tr", "w:tc", "w:t"))
_MARKS = {_PARAGRAPH: "\n", qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
# Properties of a paragraph, where tabs are stops; and what stands in a drawing, a second time.
_SKIPPED = {qn("w:pPr"), "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"}


def parse_docx(task: Task) -> Parsed:
    """Return the text of the file. Raises `UnreadableError`."""
    try:
        _check_size(task)
        return _parsed(Document(task.path))
    except _BROKEN as error:
        raise UnreadableError("It is broken, or not whole.") from error


def _parsed(document: OpenDocument) -> Parsed:
    levels = _levels(document)
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0
    for block in _found(document.element.body, _PARAGRAPH, _TABLE):
        text = _table(block) if block.tag == _TABLE else _words(block)
        if not text:
            continue
        level = levels.get(_style(block)) if block.tag == _PARAGRAPH else None
        if level:
            headings.append(Heading(length, level, one_line(text)))
        parts.append(text)
        length += len(text) + 2
    return Parsed(text="\n\n".join(parts), headings=tuple(headings), metadata=_metadata(document))


def _check_size(task: Task) -> None:
    """Raise `UnreadableError` when it would be too large unpacked; more than it says is not unpacked."""
    with zipfile.ZipFile(task.path) as archive:
        parts = archive.infolist()
    if len(parts) > _MOST_PARTS:
        raise UnreadableError(f"It has {len(parts)} parts; the limit is {_MOST_PARTS}.")
    size = sum(part.file_size for part in parts)
    if size > task.most_unpacked_bytes:
        raise UnreadableError(f"Unpacked it has {size} bytes; the limit is {task.most_unpacked_bytes}.")


def _levels(document: OpenDocument) -> dict[str, int]:
    """Return the level of the headings of each style that is for headings, by its id."""
    styles = {style.style_id: style.element for style in document.styles}
    found = {}
    for name, style in styles.items():
        seen, based = set(), style
        # A style has the level of the one that it is based on.
        while based is not None and based.styleId not in seen:
            seen.add(based.styleId)
            if level := based.xpath("./w:pPr/w:outlineLvl/@w:val"):
                # 9 is body text.
                found[name] = int(level[0]) + 1 if 0 <= int(level[0]) < 9 else 0
                break
            based = styles.get(next(iter(based.xpath("./w:basedOn/@w:val")), ""))
    return found | {"Title": 1}


def _metadata(document: OpenDocument) -> Metadata:
    if not any(
        relation.reltype == RELATIONSHIP_TYPE.CORE_PROPERTIES for relation in document.part.package.rels.values()
    ):
        return {}
    core = document.core_properties
    date = core.created or core.modified
    said = {
        "title": one_line(core.title),
        "author": one_line(core.author),
        "date": date.isoformat() if isinstance(date, datetime) else "",
        "language": one_line(core.language),
    }
    return {name: value for name, value in said.items() if value}


def _found(parent: _Element, *tags: str) -> Iterator[_Element]:
    """Return what has one of `tags`, wherever it is but in another of them: Word wraps it in fields and changes."""
    for child in parent:
        if child.tag in tags:
            yield child
        else:
            yield from _found(child, *tags)


def _style(paragraph: _Element) -> str:
    return next(iter(paragraph.xpath("./w:pPr/w:pStyle/@w:val")), "")


def _words(paragraph: _Element) -> str:
    parts = []
    walk = iterwalk(paragraph, events=("start",))
    for _, node in walk:
        if node.tag in _SKIPPED:
            walk.skip_subtree()
        elif node.tag == _TEXT:
            parts.append(node.text or "")
        else:
            parts.append(_MARKS.get(node.tag, ""))
    return cleaned("".join(parts)).strip()


def _table(table: _Element) -> str:
    rows = ([_words(cell).replace("\n", " ") for cell in _found(row, _CELL)] for row in _found(table, _ROW))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
