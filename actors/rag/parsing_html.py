"""HTML: its main text as Markdown; of short pages, and where none is found, all text."""

import re

import trafilatura
from lxml import etree, html
from trafilatura.metadata import extract_metadata

from actors.limited_child import UnreadableError
from actors.rag.contents import Parsed
from actors.rag.parsing_markdown import headings
from actors.rag.parsing_task import Task
from actors.rag.parsing_text import cleaned, one_line, read
from bus.messages.rag import Metadata

_LANGUAGE = re.compile(r"<html\b[^>]{0,500}?\blang\s*=\s*[\"']?\s*([A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)", re.IGNORECASE)
_HEAD_CHARACTERS = 4096
# Of shorter pages trafilatura guesses, and leaves out headings and even sentences.
_SHORT_CHARACTERS = 2000
_HIDDEN = {"aside", "button", "footer", "head", "nav", "noscript", "script", "select", "style", "svg", "template"}
_INLINE = {"a", "abbr", "b", "bdi", "bdo", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd", "label"}
_INLINE |= {"mark", "q", "s", "small", "span", "strong", "sub", "sup", "u"}
# Before these; what is neither here nor inline stands between empty lines.
_LINES = {"br": "\n", "li": "\n- ", "td": " | ", "th": " | ", "tr": "\n"}
_HEADINGS = {f"h{level}": "\n\n" + "#" * level + " " for level in range(1, 7)}
_BEFORE = dict.fromkeys(_INLINE, "") | _LINES | _HEADINGS
_AFTER = dict.fromkeys(_INLINE | _LINES.keys(), "")


def parse_html(task: Task) -> Parsed:
    """Return the text of a page, without what stands around it. Raises `UnreadableError`."""
    source = cleaned(read(task, is_html=True))
    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        tree = html.document_fromstring(source.encode(), parser)
    except etree.LxmlError as error:
        raise UnreadableError("It has no text.") from error
    text = cleaned(_all_text(tree))
    if len(text) > _SHORT_CHARACTERS:
        # Without `favor_recall` the headings of plain pages are left out.
        main = trafilatura.extract(tree, output_format="markdown", favor_recall=True, include_comments=False)
        text = cleaned(main or text)
    return Parsed(text=text, headings=headings(text), metadata=_metadata(tree, source))


def _metadata(tree: html.HtmlElement, source: str) -> Metadata:
    found = extract_metadata(tree)
    language = _LANGUAGE.search(source, 0, _HEAD_CHARACTERS)
    said = {
        "title": found.title,
        "author": found.author,
        "date": found.date,
        "language": language and language[1],
    }
    return {name: line for name, value in said.items() if value and (line := one_line(value))}


def _all_text(tree: html.HtmlElement) -> str:
    """Return what a reader sees, as Markdown as far as that is simple."""
    parts: list[str] = []
    walk = etree.iterwalk(tree, events=("start", "end"))
    for event, node in walk:
        if event == "start" and node.tag in _HIDDEN:
            walk.skip_subtree()
        elif event == "start":
            parts += (_BEFORE.get(node.tag, "\n\n"), _flowing(node.text))
        else:
            parts += (_AFTER.get(node.tag, "\n\n"), _flowing(node.tail))
    lines = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", "".join(parts)))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def _flowing(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "")
