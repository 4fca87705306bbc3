"""Markdown: its headings, and the front matter that it may begin with; the text itself stays as it is."""

import re
from datetime import date
from itertools import accumulate
from math import isfinite
from typing import Any

import yaml
from markdown_it import MarkdownIt

from actors.rag.contents import Heading, Parsed
from actors.rag.parsing_task import Task
from actors.rag.parsing_text import cleaned, one_line, read
from bus.messages.rag import Metadata

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
# What is larger is a text between two lines; what has more brackets takes PyYAML seconds.
_FRONT_MATTER_CHARACTERS = 16 * 1024
_MOST_BRACKETS = 200
_DEEPEST = 8
_WORDS = {"text", "code_inline"}

# Most of the work is what stands in paragraphs, of which no heading follows.
_blocks = MarkdownIt("commonmark").disable(["inline"])
_inline = MarkdownIt("commonmark")


def parse_markdown(task: Task) -> Parsed:
    """Return the text of the file, and its front matter as metadata. Raises `UnreadableError`."""
    text = cleaned(read(task))
    metadata, begin = _front_matter(text)
    return Parsed(text=text, headings=headings(text, begin), metadata=metadata)


def headings(text: str, begin: int = 0) -> tuple[Heading, ...]:
    """Return the headings of Markdown that stand behind character `begin`, where a line begins."""
    body = text[begin:]
    starts = list(accumulate((len(line) for line in body.splitlines(keepends=True)), initial=begin))
    found, tokens = [], _blocks.parse(body)
    for number, token in enumerate(tokens):
        if token.type == "heading_open" and token.map and (title := _title(tokens[number + 1].content)):
            found.append(Heading(starts[token.map[0]], int(token.tag[1:]), title))
    return tuple(found)


def _title(content: str) -> str:
    (token,) = _inline.parseInline(content)
    return one_line("".join(child.content for child in token.children or () if child.type in _WORDS))


def _front_matter(text: str) -> tuple[Metadata, int]:
    """Return what it says, and where it ends: at 0 if there is none."""
    match = _FRONT_MATTER.match(text, 0, _FRONT_MATTER_CHARACTERS)
    if match is None or match[1].count("[") + match[1].count("{") > _MOST_BRACKETS:
        return {}, 0
    try:
        # An alias may stand for the whole again and again.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(match[1], yaml.SafeLoader)):
            return {}, 0
        said = yaml.safe_load(match[1])
        if not isinstance(said, dict):
            return {}, 0
        plain = {one_line(str(key)): _plain(value) for key, value in said.items()}
    # Also of a number with more digits than Python writes.
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}, 0
    return {key: value for key, value in plain.items() if value is not None}, match.end()


def _plain(value: Any, depth: int = 0) -> Any:
    """Return it as JSON has it, or `None`."""
    match value:
        case bool():
            plain: Any = value
        case float() if isfinite(value):
            plain = value
        case int():
            plain = value if abs(value) < 2**63 else str(value)
        case str():
            plain = cleaned(value)
        case date():
            plain = value.isoformat()
        case list() if depth < _DEEPEST:
            plain = [_plain(each, depth + 1) for each in value]
        case dict() if depth < _DEEPEST:
            plain = {one_line(str(key)): _plain(each, depth + 1) for key, each in value.items()}
        case _:
            plain = None
    return plain
