"""`fusion rag ingest`: files and folders are taken into a collection, by jobs of some files each."""

import argparse
import asyncio
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec
from tqdm import tqdm

from bus.blobs import Blobs
from bus.client import Bus
from bus.messages.jobs import CancelJob, JobProgress, JobReply, SubmitJob
from bus.messages.rag_documents import DocumentOutcome, DocumentSource, IngestDocuments, IngestResult
from bus.subjects import CANCEL_JOB, SUBMIT_JOB
from cli.connect import Subparsers, add_action
from cli.jobs import ended
from cli.table import counted

# What one job takes in: so that what is tried again after a crash is little, and a message holds their names.
_FILES_PER_JOB = 100
_PIECE = 2**20
# What a document may be called; file names may have characters that are none.
_ID = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")
_PATIENCE = 30.0


class _File(NamedTuple):
    path: Path
    document_id: str


class _Failed(NamedTuple):
    document_id: str
    error: str


def add(what: Subparsers) -> None:
    """Add the action."""
    ingesting = add_action(what, "ingest", "take files, and those of folders, into a collection", _ingest)
    ingesting.add_argument("path", type=Path, nargs="+", help="a file, or a folder with all below it")
    ingesting.add_argument("--collection", default="default", help="where they go; it is made if there is none")
    ingesting.add_argument("--chunk-size", type=int, help="the most tokens of a chunk")
    ingesting.add_argument("--overlap", type=int, help="how many tokens are in two neighbours")
    ingesting.add_argument("--embedding-model", help="the model of a collection that is to be made")
    ingesting.add_argument("--glob", default="*", help="which files of folders are meant, such as '*.pdf'")


async def _ingest(bus: Bus, args: argparse.Namespace) -> None:
    """Take all in, tell of each file, and of those that failed once more at the end; the exit status is 1 then."""
    if not await asyncio.to_thread(bus.config.state.is_dir):
        sys.exit(
            f"fusion: {bus.config.state} is not there. Files are handed over in the state folder of the Fusion that "
            "is meant: run this on its machine, and name that folder by --state-dir. Elsewhere, POST /api/rag/ingest."
        )
    files = await asyncio.to_thread(lambda: _files(args.path, args.glob))
    failed: list[_Failed] = []
    counts: Counter[str] = Counter()
    with tqdm(total=len(files), unit="file", leave=False, disable=None) as bar:
        for first in range(0, len(files), _FILES_PER_JOB):
            some = files[first : first + _FILES_PER_JOB]
            sources, unread = await _stored(Blobs(bus.config.blobs), some)
            failed += unread
            bar.update(len(unread))
            for outcome in await _taken_in(bus, sources, args, bar):
                counts[outcome.status] += 1
                counts["chunks"] += outcome.chunks if outcome.status in {"stored", "replaced"} else 0
                _print_outcome(outcome, bar)
                if outcome.status == "failed":
                    failed.append(_Failed(outcome.filename, f"{outcome.error} ({outcome.code})"))
    statuses = ", ".join(f"{counts[status]} {status}" for status in ("stored", "replaced", "unchanged"))
    print(f"{args.collection}: {statuses}, {len(failed)} failed; {counted(counts['chunks'], 'new chunk')}")
    for each in failed:
        print(f"fusion: {each.document_id}: {each.error}", file=sys.stderr)
    if failed:
        sys.exit(1)


def _files(paths: Sequence[Path], glob: str) -> list[_File]:
    """Return the files with their ids: the path in the folder that was given, or the name of a file that was."""
    found = [file for path in paths for file in _below(path, glob)]
    owner: dict[str, Path] = {}
    for file in found:
        other = owner.setdefault(file.document_id, file.path)
        if other != file.path:
            sys.exit(f"fusion: {other} and {file.path} would be the same document '{file.document_id}'.")
    if not found:
        sys.exit("fusion: there are no such files.")
    return list(dict.fromkeys(found))


def _below(path: Path, glob: str) -> Iterator[_File]:
    if path.is_file():
        yield _File(path, path.name)
    elif not path.is_dir():
        sys.exit(f"fusion: {path} is not there.")
    else:
        for file in _globbed(path, glob):
            inside = file.relative_to(path)
            is_hidden = any(part.startswith(".") for part in inside.parts)
            if file.is_file() and not is_hidden:
                yield _File(file, inside.as_posix())


def _globbed(folder: Path, glob: str) -> list[Path]:
    try:
        return sorted(folder.rglob(glob))
    except (ValueError, NotImplementedError) as error:
        sys.exit(f"fusion: --glob {glob!r} is no pattern: {error}")


async def _stored(blobs: Blobs, files: Sequence[_File]) -> tuple[list[DocumentSource], list[_Failed]]:
    """Store the files as blobs; return them as they are told of, and those that cannot be read."""
    sources: list[DocumentSource] = []
    failed: list[_Failed] = []
    for file in files:
        if not _ID.fullmatch(file.document_id):
            error = "Its path is longer than 255 characters, or not all of it is text."
            failed.append(_Failed(repr(file.document_id), error))
            continue
        try:
            blob = await _put(blobs, file.path)
        except OSError as unread:
            failed.append(_Failed(file.document_id, f"It cannot be read: {unread.strerror}"))
        else:
            sources.append(DocumentSource(filename=file.document_id, document_id=file.document_id, blob=blob))
    return sources, failed


async def _put(blobs: Blobs, path: Path) -> str:
    with path.open("rb") as file:
        async with blobs.writing() as draft:
            while piece := await asyncio.to_thread(file.read, _PIECE):
                await asyncio.to_thread(draft.write, piece)
        return draft.name


async def _taken_in(
    bus: Bus, sources: Sequence[DocumentSource], args: argparse.Namespace, bar: "tqdm[NoReturn]"
) -> tuple[DocumentOutcome, ...]:
    """Have one job take the documents in, and return what became of each. Raises `BusError`."""
    if not sources:
        return ()
    cut = {"chunk_size": args.chunk_size, "overlap": args.overlap, "embedding_model": args.embedding_model}
    said = {name: value for name, value in cut.items() if value is not None}
    request = IngestDocuments(documents=tuple(sources), collection=args.collection, **said)
    work = msgspec.Raw(msgspec.json.encode(request))
    begun = bar.n
    job = await bus.ask(SUBMIT_JOB(), SubmitJob(model="rag", operation="rag.ingest", input=work), patience=_PATIENCE)

    def show(progress: JobProgress) -> None:
        bar.n = begun + progress.done
        bar.set_postfix_str(progress.message)

    try:
        job = await ended(bus, job.job_id, show)
    except asyncio.CancelledError:
        await bus.ask(CANCEL_JOB(), CancelJob(job_id=job.job_id))
        raise
    bar.n = begun + len(sources)
    return await _outcomes(bus, job)


async def _outcomes(bus: Bus, job: JobReply) -> tuple[DocumentOutcome, ...]:
    if job.status != "completed" or job.result_blob is None:
        sys.exit(f"fusion: {job.job_id} {job.status}: {job.error or job.reason}")
    result = await Blobs(bus.config.blobs).get(job.result_blob)
    if result is None:
        sys.exit(f"fusion: the result of {job.job_id} is gone from {bus.config.blobs}.")
    return msgspec.json.decode(result, type=IngestResult).documents


def _print_outcome(outcome: DocumentOutcome, bar: "tqdm[NoReturn]") -> None:
    pages = f"{counted(outcome.pages, 'page')}, " if outcome.pages else ""
    cut = f", {outcome.truncated_chunks} of them truncated" if outcome.truncated_chunks else ""
    told = "" if outcome.status == "failed" else f"  ({pages}{counted(outcome.chunks, 'chunk')}{cut})"
    bar.write(f"{outcome.status:<9}  {outcome.filename}{told}")
