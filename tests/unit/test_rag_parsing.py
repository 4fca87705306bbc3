import struct
from pathlib import Path

import msgspec
import pytest

from actors.limited_child import UnreadableError
from actors.rag.contents import Heading, Parsed
from actors.rag.parsing_child import _do
from actors.rag.parsing_task import Task
from tests.support.documents import archive, docx, docx_with, pdf

WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
GERMAN = "Der Käse ist größer als das Brötchen, sagt José, und überall blühen schöne, süße Äpfel für Jürgen. "

PAGE = """<!doctype html><html lang="en-GB"><head><title>Herons - The bird site</title>
<meta name="author" content="Ada Byron"><meta property="article:published_time" content="2024-03-01T10:00:00Z">
<script>var hidden = "script";</script></head><body>
<nav><a href="/">Home</a> <a href="/shop">Shop</a></nav>
<article><h1>Herons</h1><p>A heron stands <b>still</b> in the shallow water &amp; waits for a fish to come by.</p>
<h2>Food</h2><p>It eats fish, frogs and eels, and now and then a mouse. MORE</p>
<table><tr><th>food</th><th>share</th></tr><tr><td>fish</td><td>80 %</td></tr></table></article>
<footer>Copyright 2024, all rights reserved</footer></body></html>"""
LONG_PAGE = PAGE.replace("MORE", "It has come too near to the water. " * 80)

MARKDOWN = """---
title: Herons
date: 2024-03-01
tags: [birds, water]
weight: 1.5
---
# The *grey* heron

Text.

```
# no heading
```

Food
----

It eats `fish`.
"""


def parsed(folder: Path, content: bytes | str, filename: str = "", content_type: str | None = None) -> Parsed:
    path = folder / "document"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    task = Task(
        path=str(path),
        filename=filename,
        content_type=content_type,
        most_bytes=10**6,
        most_pages=3,
        most_text_bytes=10_000,
        most_unpacked_bytes=10**6,
        seconds=10.0,
    )
    _, (packed,) = _do(task)
    return msgspec.msgpack.decode(packed, type=Parsed)


def test_pdf_is_read_page_by_page_with_its_outline_and_what_it_tells_of_itself(tmp_path: Path) -> None:
    content = pdf(
        ["Herons\nA heron (grey) stands in shallow wa-\nter.", "More\nFood and drink\nÄlles mögliche."],
        outline=[("Herons", 0), ("Food and drink", 1), ("Not on the page", 1)],
        details="/Title(Birds)/Author(Ada)/CreationDate(D:20240301101112+01'00')",
    )

    found = parsed(tmp_path, content)

    first = "Herons\nA heron (grey) stands in shallow water."
    assert found.text == f"{first}\n\nMore\nFood and drink\nÄlles mögliche."
    assert found.pages == (0, len(first) + 2)
    assert [(found.text[heading.offset :][:4], heading.title) for heading in found.headings] == [
        ("Hero", "Herons"),
        ("More", "Not on the page"),
        ("Food", "Food and drink"),
    ]
    assert found.metadata == {"title": "Birds", "author": "Ada", "date": "2024-03-01T10:11:12+01:00"}


@pytest.mark.parametrize(
    ("said", "date"),
    [("D:2024", "2024"), ("D:202403", "2024-03"), ("20240301101112Z", "2024-03-01T10:11:12+00:00"), ("May", None)],
)
def test_date_of_a_pdf_is_told_as_far_as_it_is_there(tmp_path: Path, said: str, date: str | None) -> None:
    assert parsed(tmp_path, pdf(["x"], details=f"/CreationDate({said})")).metadata.get("date") == date


def test_pdf_is_read_without_what_it_tells_of_itself_in_no_characters(tmp_path: Path) -> None:
    half = r"\376\377\330\000"  # UTF-16 with half a character.
    content = pdf(["A heron."], outline=[(half, 0), ("Herons", 0)], details=f"/Title({half})/Author(Ada)")

    found = parsed(tmp_path, content)

    assert found.text == "A heron."
    assert [heading.title for heading in found.headings] == ["Herons"]
    assert found.metadata == {"title": "Herons", "author": "Ada"}


def test_docx_has_headings_tables_and_properties(tmp_path: Path) -> None:
    found = parsed(tmp_path, docx(title="Of birds", author="Ada"))

    assert found.text == "Birds\n\nHerons eat fish.\n\nNumbers\n\n| name | count |\n| heron | 12 |\n\nThat is all."
    assert found.headings == (Heading(0, 1, "Birds"), Heading(25, 2, "Numbers"))
    assert (found.metadata["title"], found.metadata["author"]) == ("Of birds", "Ada")


@pytest.mark.parametrize("page", [PAGE, LONG_PAGE])
def test_html_gives_its_main_text_with_headings_and_metadata(tmp_path: Path, page: str) -> None:
    found = parsed(tmp_path, page, "page.html")

    assert found.text.replace("**", "").startswith("# Herons\n\nA heron stands still in the shallow water & waits")
    assert "| fish | 80 %" in found.text
    assert [word for word in ("Shop", "Copyright", "hidden") if word in found.text] == []
    assert [heading.title for heading in found.headings] == ["Herons", "Food"]
    assert found.text[found.headings[1].offset :].startswith("## Food\n\nIt eats")
    assert found.metadata == {"title": "Herons", "author": "Ada Byron", "date": "2024-03-01", "language": "en-GB"}


def test_short_page_gives_all_that_is_seen(tmp_path: Path) -> None:
    found = parsed(
        tmp_path,
        "<title>T</title><style>p{}</style><!-- no --><h2>One</h2>a <i>b</i>c<br>d<ul><li>e</ul>"
        "<table><tr><td>f<td>g</table>",
        "x.htm",
    )

    assert found.text.split("\n\n")[:2] == ["## One", "a bc\nd"]
    assert "- e" in found.text
    assert "| f | g" in found.text
    assert found.headings == (Heading(0, 2, "One"),)


def test_markdown_stays_as_it_is_and_its_front_matter_is_metadata(tmp_path: Path) -> None:
    found = parsed(tmp_path, MARKDOWN, "herons.md")

    assert found.text == MARKDOWN
    assert [(found.text[heading.offset :][:5], heading.level, heading.title) for heading in found.headings] == [
        ("# The", 1, "The grey heron"),
        ("Food\n", 2, "Food"),
    ]
    assert found.metadata == {"title": "Herons", "date": "2024-03-01", "tags": ["birds", "water"], "weight": 1.5}


@pytest.mark.parametrize(
    "front", ["a: [*b]", "a: &b [1]\nc: *b", "a: {", "- a", "a: 2024-99-99", "[" * 5_000, "a: 0x" + "f" * 5_000]
)
def test_front_matter_that_is_none_is_part_of_the_text(tmp_path: Path, front: str) -> None:
    text = f"---\n{front}\n---\n\n# Title\n"

    found = parsed(tmp_path, text, "x.md")

    assert found.text == text
    assert found.metadata.keys() == {"title"}


def test_document_without_a_title_has_that_of_its_first_outermost_heading(tmp_path: Path) -> None:
    assert parsed(tmp_path, "### Part\n\n# Whole\n\n# Other", "x.md").metadata == {"title": "Whole"}


@pytest.mark.parametrize(
    "content",
    [
        GERMAN.encode(),
        GERMAN.encode("utf-8-sig"),
        GERMAN.encode("utf-16"),
        GERMAN.encode("utf-16-le"),
        GERMAN.encode("utf-16-be"),
        GERMAN.encode("utf-32"),
        GERMAN.encode("latin-1"),
        (GERMAN * 30).encode("cp1252"),
    ],
)
def test_texts_of_many_encodings_are_read(tmp_path: Path, content: bytes) -> None:
    assert parsed(tmp_path, content, "x.txt").text.startswith(GERMAN)


def test_encoding_is_believed_that_is_told(tmp_path: Path) -> None:
    cyrillic = "Серая цапля"
    page = f'<html><head><meta charset="koi8-r"></head><body><p>{cyrillic}</p></body></html>'

    assert parsed(tmp_path, cyrillic.encode("cp1251"), "x", "text/plain; charset=windows-1251").text == cyrillic
    assert parsed(tmp_path, page.encode("koi8-r"), "x.html").text == cyrillic
    assert parsed(tmp_path, "é", "x", "text/plain; charset=undefined").text == "é"


def test_text_has_no_control_characters_and_one_kind_of_line_end(tmp_path: Path) -> None:
    text = "a\r\nb\rc\fd\u2028e\u0000\u001b\u0080" + "." * 200

    assert parsed(tmp_path, text, "x.txt").text == "a\nb\nc\nd\ne" + "." * 200


@pytest.mark.parametrize(
    ("content", "filename", "content_type", "begin"),
    [
        (pdf(["Herons"]), "x.txt", "text/plain", "Herons"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + pdf(["Herons"]), "x.pdf", None, "Herons"),
        ("A PDF begins with %PDF-1.7", "x.txt", None, "A PDF"),
        (docx(), "x.txt", "application/octet-stream", "Birds"),
        (PAGE, "x.txt", "text/html; charset=utf-8", "# Herons"),
        (PAGE, "x", None, "# Herons"),
        (PAGE, "x.html", "application/octet-stream", "# Herons"),
        ("<p>x", "x.txt", None, "<p>x"),
        ("# x", "x.md", "text/plain", "# x"),
        ("def f():\n\treturn 1\n", "x.py", None, "def f():\n\treturn 1"),
        ('{"a": 1}', "", "application/json", '{"a": 1}'),
        ("a;b\n1;2\n", "x.csv", "text/csv", "a;b"),
    ],
)
def test_what_a_file_is_is_told_by_its_bytes_its_type_and_its_name(
    tmp_path: Path, content: bytes | str, filename: str, content_type: str | None, begin: str
) -> None:
    assert parsed(tmp_path, content, filename, content_type).text.startswith(begin)


@pytest.mark.parametrize(
    ("content", "filename", "content_type", "said"),
    [
        (b"", "x.txt", None, "is empty"),
        (" \n\t\u00a0", "x.txt", None, "has no text"),
        ("<html></html>", "x.html", None, "has no text"),
        ("<!-- -->", "x.html", None, "has no text"),
        (bytes(range(256)) * 9, "x.txt", None, "neither a text nor .* Read are PDF, DOCX"),
        (struct.pack("<100h", *range(100)) * 5, "x.txt", None, "neither a text"),
        ("x", "x.svg", "image/svg+xml", "said to be image/svg"),
        (r"{\rtf1 x}", "x.rtf", None, "is RTF"),
        ("x", "x.pdf", None, "is no PDF"),
        ("x", "x", WORD, "is no DOCX"),
        (archive({"x": b"y"}), "x.docx", WORD, "ZIP archive, but no DOCX"),
        (docx()[:-500], "x.docx", None, "broken"),
        (docx_with(b"<a>"), "x.docx", None, "broken"),
        (docx_with(b"<a/>"), "x.docx", None, "broken"),
        (docx_with(b" " * 2_000_000), "x.docx", None, "Unpacked it has 2"),
        (archive({"word/document.xml": b"<a/>"}), "x.docx", None, "broken"),
        (pdf(["x" * 500])[:-200], "x.pdf", None, "broken"),
        (pdf(["", ""]), "x.pdf", None, "None of its 2 pages has text"),
        (pdf(["x"] * 4), "x.pdf", None, "4 pages; the limit is 3"),
        (
            pdf(["x"], encrypt=f"/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<{'0' * 64}>/U<{'0' * 64}>>>"),
            "x.pdf",
            None,
            "needs a password",
        ),
        (pdf(["\n".join(["x" * 80] * 50)] * 3), "x.pdf", None, "longer than 10000 bytes"),
        ("ä" * 6_000, "x.txt", None, "12000 bytes; the limit is 10000"),
        ("a" * 30_000, "x.txt", None, "30000 bytes; the limit for a text is 10000"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(
    tmp_path: Path, content: bytes | str, filename: str, content_type: str | None, said: str
) -> None:
    with pytest.raises(UnreadableError, match=said):
        parsed(tmp_path, content, filename, content_type)
