"""A folder of documents as people have them: PDF, HTML, Markdown, DOCX and plain text, with a fact in each."""

import io
from pathlib import Path

from docx import Document
from msgspec import Struct

from tests.support.documents import pdf


class Fact(Struct, frozen=True):
    """A question, and the words that answer it: in which document, on which page if it has pages, below which title."""

    question: str
    words: str
    document: str
    page: int | None = None
    heading: str | None = None


FACTS = (
    Fact(
        "When was the reactor shut down after a leak?",
        "shut down on 14 March 1987",
        "reports/reactor.pdf",
        page=2,
    ),
    Fact("How many control rods does the reactor have?", "has 46 control rods", "reports/reactor.pdf", page=3),
    Fact("How hot does the oven have to be for bread?", "at 230 degrees", "kitchen/bread.html"),
    Fact("How many days of paid leave do employees have?", "27 days of paid leave", "handbook.md", heading="Holidays"),
    Fact("Who was elected treasurer?", "elected Ingrid Solheim as treasurer", "minutes.docx", heading="Elections"),
    Fact("How far can the telescope see?", "four billion light years", "telescope.txt"),
)

_REACTOR = (
    """The Kestrel reactor

This report tells the history of a small research reactor by the sea.
It was built by three universities together.""",
    """Operation

The reactor ran for eleven years without an accident.
It was shut down on 14 March 1987 after a leak of coolant was found.""",
    """Details

The core has 46 control rods of boron steel.
The building is a museum today.""",
)
_BREAD = """<!DOCTYPE html><html><head><title>Sourdough bread</title></head><body>
<nav><a href="/">Home</a> <a href="/cakes">Cakes</a></nav>
<article><h1>Sourdough bread</h1><p>Mix flour, water and salt, and let the dough rest over night.</p>
<p>Heat the oven, and bake the loaf at 230 degrees for three quarters of an hour.</p></article>
</body></html>"""
_HANDBOOK = """# Handbook

Welcome to the company. This book tells what everybody should know, and whom to ask for more.

## Holidays

Every employee has 27 days of paid leave in a year.

## Travel

Trains are booked by the office. Receipts are handed in within a month.
"""
_TELESCOPE = (
    "The telescope on the hill has a mirror of two metres.\nIt can see galaxies four billion light years away.\n"
)


def write_small_library(folder: Path) -> Path:
    """Write the documents and return the folder."""
    for name in ("reports", "kitchen"):
        (folder / name).mkdir(parents=True)
    (folder / "reports" / "reactor.pdf").write_bytes(pdf(_REACTOR))
    (folder / "kitchen" / "bread.html").write_text(_BREAD)
    (folder / "handbook.md").write_text(_HANDBOOK)
    (folder / "minutes.docx").write_bytes(_minutes())
    (folder / "telescope.txt").write_text(_TELESCOPE)
    return folder


def _minutes() -> bytes:
    document = Document()
    document.add_heading("Minutes of the chess club", 1)
    document.add_paragraph("Nine members were there, three were ill. The fee stays as it is, and so does the room.")
    document.add_heading("Elections", 2)
    document.add_paragraph("The members elected Ingrid Solheim as treasurer.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()
