"""/v1/files before real actors."""

from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from actors.engines.echo import EchoEngine
from http_edge.config import EdgeConfig
from tests.support.batches import batching, line

LIMIT = 1_000_000


def _form(**fields: Any) -> aiohttp.FormData:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        form.add_field(name, value, **({"filename": "input.jsonl"} if name.startswith("file") else {}))
    return form


async def test_file_is_kept_found_read_and_deleted(nats_url: str, tmp_path: Path) -> None:
    content = b"\n".join(line(str(number)) for number in range(2000))
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        files = edge.openai.files

        made = await files.create(file=("räksmörgås.jsonl", content), purpose="batch")
        found = await files.retrieve(made.id)
        read = await files.content(made.id)
        async with edge.http.get(f"/v1/files/{made.id}/content", headers={"Range": "bytes=0-9"}) as response:
            part = await response.read()
        deleted = await files.delete(made.id)
        with pytest.raises(openai.NotFoundError, match=f"There is no file '{made.id}'"):
            await files.content(made.id)
        with pytest.raises(openai.NotFoundError, match="There is no file"):
            await files.delete(made.id)

    assert (made.object, made.purpose, made.filename) == ("file", "batch", "räksmörgås.jsonl")
    assert made.bytes == len(content)
    assert made.expires_at == made.created_at + 7 * 24 * 3600
    assert found == made
    assert (read.content, part) == (content, content[:10])
    assert (deleted.id, deleted.deleted) == (made.id, True)


async def test_files_are_listed_in_pages(nats_url: str, tmp_path: Path) -> None:
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        files = edge.openai.files
        made = [(await files.create(file=("x", b"same"), purpose="batch")).id for _ in range(3)]
        await files.delete(made.pop(1))

        newest = [file.id async for file in files.list(limit=1)]
        oldest = [file.id async for file in files.list(order="asc")]
        outputs = [file.id async for file in files.list(purpose="batch_output")]
        with pytest.raises(openai.BadRequestError, match="There is no item 'file-0'"):
            await files.list(after="file-0")
        with pytest.raises(openai.BadRequestError, match="limit"):
            await files.list(limit=0)

    assert (newest, oldest, outputs) == (made[::-1], made, [])


async def test_files_can_be_deleted_page_by_page(nats_url: str, tmp_path: Path) -> None:
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        files = edge.openai.files
        for _ in range(3):
            await files.create(file=("x", b"same"), purpose="batch")

        deleted = [await files.delete(file.id) async for file in files.list(limit=1)]
        left = [file.id async for file in files.list()]

    assert (len(deleted), left) == (3, [])


async def test_form_that_is_wrong_is_refused_and_leaves_nothing(nats_url: str, tmp_path: Path) -> None:
    file, rest = b"x" * 100, {"purpose": "batch"}
    wrong = [
        (_form(file=file), 400, "purpose"),
        (_form(file=file, purpose="fine-tune"), 400, "purpose"),
        (_form(**rest), 400, "file"),
        (_form(file=file, file2=file, **rest), 400, "file2"),
        (_form(file=file, **rest, **{"expires_after[anchor]": "created_at"}), 400, "expires_after[anchor]"),
        (_form(purpose="x" * 2000, file=file), 400, "purpose"),
        (_form(**{f"field{number}": "x" for number in range(9)}), 400, "field0"),
        (_form(file=b"x" * (LIMIT + 1), **rest), 413, "file"),
    ]
    config = EdgeConfig(port=0, max_file_bytes=LIMIT, drain_seconds=2.0)
    async with batching(nats_url, tmp_path, EchoEngine(), config) as edge:
        told = []
        for form, _, _ in wrong:
            async with edge.http.post("/v1/files", data=form) as response:
                told.append((response.status, (await response.json())["error"]["param"]))
        async with edge.http.post("/v1/files", data=_form(file=b"x" * LIMIT, **rest)) as response:
            largest = response.status

    kept = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert told == [(status, param) for _, status, param in wrong]
    assert largest == 200
    assert [path.stat().st_size for path in kept] == [LIMIT]


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"Content-Type": "application/json"}, b"{}", "media type 'application/json'"),
        ({"Content-Type": "multipart/form-data"}, b"", "not a whole form"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"", "not a whole form"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x\r\nno header", "not a whole form"),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ncut off',
            "not a whole form",
        ),
        ({"Content-Type": "multipart/form-data; boundary=x", "Origin": "http://evil.example"}, b"", "Pages of"),
        ({"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"}, b"", "content encoding"),
    ],
)
async def test_body_that_is_no_form_is_refused(
    nats_url: str, tmp_path: Path, headers: dict[str, str], body: bytes, said: str
) -> None:
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        async with edge.http.post("/v1/files", data=body, headers=headers) as response:
            error = (await response.json())["error"]

    assert response.status == 400
    assert said in error["message"]


async def test_names_that_are_not_utf8_are_told_as_far_as_they_are(nats_url: str, tmp_path: Path) -> None:
    head, said = b"--x\r\nContent-Disposition: form-data; name=", b"\r\nContent-Type: text/\xff\r\n\r\nbatch\r\n"
    file = head + b'"file"; filename="\xffber.jsonl"' + said
    forms = [file + head + name + said + b"--x--\r\n" for name in (b'"purpose"', b'"p\xffrpose"')]
    async with batching(nats_url, tmp_path, EchoEngine()) as edge:
        told = []
        for form in forms:
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            async with edge.http.post("/v1/files", data=form, headers=headers) as response:
                told.append((response.status, await response.json()))

    (kept, file_told), (refused, error_told) = told
    assert (kept, file_told["filename"]) == (200, "\ufffdber.jsonl")
    assert (refused, error_told["error"]["param"]) == (400, "p\ufffdrpose")
