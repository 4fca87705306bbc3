"""Documents of all kinds, good and hostile, as small as the point allows."""

import io
import zipfile
import zlib
from collections.abc import Sequence

from docx import Document


def pdf(pages: Sequence[str], outline: Sequence[tuple[str, int]] = (), details: str = "", encrypt: str = "") -> bytes:
    """Return a PDF with these lines of Latin text on its pages. `outline` has titles and the pages they lead to."""
    streams = [_shown(page) for page in pages]
    return raw_pdf(streams, outline=outline, details=details, encrypt=encrypt)


def raw_pdf(
    streams: Sequence[bytes],
    *,
    coding: str = "",
    outline: Sequence[tuple[str, int]] = (),
    details: str = "",
    encrypt: str = "",
) -> bytes:
    """Return a PDF whose pages are these streams, which are encoded by the filter `coding`."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(streams)))
    marks = 4 + 2 * len(streams)
    objects = [
        f"<</Type/Catalog/Pages 2 0 R{f'/Outlines {marks} 0 R' if outline else ''}>>".encode(),
        f"<</Type/Pages/Kids[{kids}]/Count {len(streams)}>>".encode(),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for number, stream in enumerate(streams):
        page = f"/Resources<</Font<</F1 3 0 R>>>>/Contents {5 + 2 * number} 0 R"
        objects.append(f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]{page}>>".encode())
        objects.append(f"<</Length {len(stream)}{coding}>>stream\n".encode() + stream + b"\nendstream")
    if outline:
        first, last = marks + 1, marks + len(outline)
        objects.append(f"<</Type/Outlines/First {first} 0 R/Last {last} 0 R/Count {len(outline)}>>".encode())
        for number, (title, page_number) in enumerate(outline):
            following = f"/Next {first + number + 1} 0 R" if first + number < last else ""
            to = f"/Dest[{4 + 2 * page_number} 0 R/Fit]"
            objects.append(f"<</Title({title})/Parent {marks} 0 R{to}{following}>>".encode())
    objects.append(f"<<{details}>>".encode())
    return _file(objects, encrypt)


def flate_bomb(size_bytes: int, rounds: int) -> bytes:
    """Return a PDF whose page is a text of spaces, packed so many times over."""
    packer = zlib.compressobj(9)
    block = b" " * 2**20
    stream = b"".join(packer.compress(block) for _ in range(size_bytes // len(block))) + packer.flush()
    for _ in range(rounds - 1):
        stream = zlib.compress(stream, 9)
    return raw_pdf([stream], coding=f"/Filter[{'/FlateDecode' * rounds}]")


def docx(*, title: str = "", author: str = "") -> bytes:
    """Return a DOCX with headings, paragraphs and a table."""
    document = Document()
    document.core_properties.title, document.core_properties.author = title, author
    document.add_heading("Birds", 1)
    document.add_paragraph("Herons eat fish.")
    document.add_heading("Numbers", 2)
    table = document.add_table(2, 2)
    for place, word in enumerate(("name", "count", "heron", "12")):
        table.cell(place // 2, place % 2).text = word
    document.add_paragraph("That is all.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def archive(parts: dict[str, bytes]) -> bytes:
    """Return a ZIP archive of these files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in parts.items():
            made.writestr(name, content)
    return file.getvalue()


def docx_with(body: bytes) -> bytes:
    """Return a DOCX whose text is this XML."""
    with zipfile.ZipFile(io.BytesIO(docx())) as given:
        parts = {name: given.read(name) for name in given.namelist()}
    return archive(parts | {"word/document.xml": body})


def _shown(text: str) -> bytes:
    lines = [line.encode("cp1252").replace(b"(", rb"\(").replace(b")", rb"\)") for line in text.split("\n")]
    return b"BT /F1 12 Tf 14 TL 72 720 Td " + b" ".join(b"(" + line + b") Tj T*" for line in lines) + b" ET"


def _file(objects: Sequence[bytes], encrypt: str) -> bytes:
    """Return the file of these objects, of which the first is the catalogue and the last tells about it."""
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    end = f"/Size {len(objects) + 1}/Root 1 0 R/Info {len(objects)} 0 R{encrypt}"
    return bytes(out + f"trailer<<{end}>>\nstartxref\n{start}\n%%EOF\n".encode())
