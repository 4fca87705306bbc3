"""Documents that are made to hang, crash and fill memory, each read by a process of its own that is lost with it."""

import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from msgspec import structs

from actors.rag.parsing import Parser, ParserLimits
from bus.errors import RefusedError
from tests.support.documents import archive, docx, docx_with, flate_bomb, pdf, raw_pdf
from tests.support.processes import children_that_run, gone

MIB = 2**20
DEEP = b"<div>" * 200_000 + b"x" + b"</div>" * 200_000
ATTRIBUTES = b"<p " + b" ".join(b"a%d=1" % number for number in range(300_000)) + b">x</p>"
OPERATORS = zlib.compress(b"BT /F1 12 Tf 72 720 Td " + b"(a) Tj " * 400_000 + b"ET")
GOOD = {
    "x.pdf": pdf(["Herons eat fish."]),
    "x.docx": docx(),
    "x.html": b"<h1>Birds</h1><p>Herons eat fish.",
    "x.md": b"# Birds\n\nHerons eat fish.",
}


@asynccontextmanager
async def parsing() -> AsyncGenerator[Parser]:
    parser = Parser(ParserLimits(most_bytes=25 * MIB, seconds=120.0, address_bytes=512 * MIB, most_text_bytes=22 * MIB))
    yield parser
    await parser.close()


async def told(parser: Parser, folder: Path, name: str, content: bytes) -> str:
    """Return the text of the document, or why it has none."""
    path = folder / "document"
    path.write_bytes(content)
    try:
        return (await parser.parse(path, name, None)).text
    except RefusedError as error:
        assert error.code == "invalid_request"
        return str(error)


def children() -> list[psutil.Process]:
    """Return the processes that read documents, also those that have ended but were not waited for."""
    return children_that_run("actors.rag.parsing_child", or_ended=True)


async def test_hostile_documents_are_refused_or_read_and_good_ones_are_read_after_them(tmp_path: Path) -> None:
    hostile = {
        ("x.pdf", flate_bomb(1024 * MIB, 2)): "crashed, or took more memory",
        ("x.pdf", raw_pdf([OPERATORS], coding="/Filter/FlateDecode")): "aaaa",
        ("x.pdf", pdf(["x" * 500])[:300]): "broken",
        ("x.docx", docx_with(b" " * (200 * MIB))): "Unpacked it has",
        ("x.docx", docx_with(b"<a>" * 100_000)): "broken",
        ("x.docx", archive({"word/document.xml": b"x"})): "broken",
        ("x.html", DEEP): "has no text",
        ("x.txt", b"x" * (20 * MIB)): "xxx",
        ("x.txt", b"x" * (23 * MIB)): "the limit is",
        ("x.txt", b"x" * (26 * MIB)): "the limit is",
        ("x.txt", zlib.compress(DEEP, 1)): "neither a text",
    }
    async with parsing() as parser:
        for (name, content), said in hostile.items():
            assert said in await told(parser, tmp_path, name, content), (name, content[:40])
        for name, content in GOOD.items():
            assert "Herons eat fish." in await told(parser, tmp_path, name, content), name
        assert len(children()) == 1
    assert children() == []


async def test_document_that_takes_too_long_costs_only_itself(tmp_path: Path) -> None:
    async with parsing() as parser:
        await told(parser, tmp_path, "x.html", GOOD["x.html"])  # To start its process takes seconds as well.
        (first,) = children()
        patient = parser._limits
        parser._limits = structs.replace(patient, seconds=4.0)

        assert "longer than 4 s" in await told(parser, tmp_path, "x.html", ATTRIBUTES)

        parser._limits = patient
        assert await gone([first], 60) == []
        assert "Herons" in await told(parser, tmp_path, "x.md", GOOD["x.md"])


async def test_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    async with parsing() as parser:
        with pytest.raises(RefusedError, match="not there any more"):
            await parser.parse(tmp_path / "none", "x.txt", None)
