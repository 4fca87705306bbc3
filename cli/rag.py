"""`fusion rag`: documents are taken in, found, asked, listed, deleted and checked; rag_ingest.py takes them in."""

import argparse
import sys
from typing import Any, TypeVar, get_args

import msgspec

from bus.client import Bus
from bus.errors import LostError
from bus.frames import Status
from bus.messages.rag import Answer, Hit, Mode, QueryDocuments, SearchDocuments, SearchResults
from bus.messages.rag_documents import (
    CollectionCard,
    DeleteCollection,
    DeleteDocuments,
    ListCollections,
    ListDocuments,
    RebuildCollection,
    VerifyCollection,
)
from bus.subjects import (
    DELETE_COLLECTION,
    DELETE_DOCUMENTS,
    LIST_COLLECTIONS,
    LIST_DOCUMENTS,
    QUERY_DOCUMENTS,
    REBUILD_COLLECTION,
    SEARCH_DOCUMENTS,
    VERIFY_COLLECTION,
    Address,
)
from cli import rag_ingest
from cli.connect import Subparsers, add_action
from cli.table import counted, table

ReplyT = TypeVar("ReplyT")

# Searches and deletions may wait for a model, or for others.
_PATIENCE = 120.0


def add(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("rag", help="take documents in, find passages, and ask questions about them")
    what = parser.add_subparsers(required=True, metavar="what")
    rag_ingest.add(what)
    querying = add_action(what, "query", "have a question answered from the documents", _query)
    querying.add_argument("question")
    querying.add_argument("--model", help="the chat model that answers")
    searching = add_action(what, "search", "find the passages that fit a query best", _search)
    searching.add_argument("query", help="words or a question")
    for action in (querying, searching):
        action.add_argument("--collection", action="append", help="where to look; may be given several times")
        action.add_argument("--top-k", type=int, default=5, help="how many passages")
        action.add_argument("--mode", choices=get_args(Mode), default="hybrid", help="by words, by meaning, or both")
        action.add_argument("--filter", type=_object, default={}, help='what documents have to be: {"author": "Ada"}')
        action.add_argument("--rerank-model", help="a model that orders what was found anew")
    add_action(what, "collections", "list the collections and how their indexes stand", _collections)
    listing = add_action(what, "documents", "list the documents of a collection", _documents)
    deleting = add_action(what, "delete", "delete documents, or a collection with all of them", _delete)
    which = deleting.add_mutually_exclusive_group(required=True)
    which.add_argument("--document", action="append", metavar="ID", help="this one; may be given several times")
    which.add_argument("--all", action="store_true", help="the collection itself")
    which.add_argument("--filter", type=_object, help="those whose metadata are so")
    listing.add_argument("--filter", type=_object, default={}, help="only those whose metadata are so")
    for action in (listing, deleting):
        action.add_argument("--collection", default="default", help="the collection that is meant")
    verifying = add_action(what, "verify", "compare collections with the log, their files and indexes", _verify)
    verifying.add_argument("collection", nargs="*", help="these only")
    rebuilding = add_action(what, "rebuild", "build the index of a collection anew", _rebuild)
    rebuilding.add_argument("collection", nargs="?", default="default")


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object ({error})") from error


def _wanted(text: str, args: argparse.Namespace) -> SearchDocuments:
    return SearchDocuments(
        query=text,
        collections=tuple(args.collection or ("default",)),
        top_k=args.top_k,
        mode=args.mode,
        filter=args.filter,
        rerank_model=args.rerank_model,
    )


async def _search(bus: Bus, args: argparse.Namespace) -> None:
    results = await bus.ask(SEARCH_DOCUMENTS(), _wanted(args.query, args), patience=_PATIENCE)
    _warn(results)
    for number, hit in enumerate(results.hits, 1):
        print(f"{_source(number, hit)}  score {hit.score:.4f}\n{_indented(hit.text)}\n")
    print(f"{counted(len(results.hits), 'passage')} in {results.seconds.total * 1000:.0f} ms")


async def _query(bus: Bus, args: argparse.Namespace) -> None:
    """Print the answer as it is written, then what it stands on."""
    hits: tuple[Hit, ...] = ()
    answer: Answer | None = None
    written = False
    request = QueryDocuments(search=_wanted(args.question, args), model=args.model)
    async with bus.stream(QUERY_DOCUMENTS(), request) as pieces:
        async for piece in pieces:
            if isinstance(piece, Status):
                continue
            if piece.results is not None:
                hits = piece.results.hits
                _warn(piece.results)
            print(piece.text, end="", flush=True)
            written = written or bool(piece.text)
            answer = piece.answer or answer
    if answer is None:
        raise LostError("stream_broken", "The answer ended before it was whole.")
    print("" if written else answer.text)
    _print_sources(hits, answer)
    if answer.error:
        sys.exit(f"fusion: {answer.error}")


def _print_sources(hits: tuple[Hit, ...], answer: Answer) -> None:
    cited = {citation.number for citation in answer.citations}
    for number, hit in enumerate(hits, 1):
        print(f"{_source(number, hit)}{'' if number in cited else '  (not cited)'}")
    if answer.model:
        seconds = f"found in {answer.retrieval_seconds:.2f} s, answered in {answer.generation_seconds:.2f} s"
        print(f"[{answer.model}: {seconds}]", file=sys.stderr)


async def _collections(bus: Bus, _: argparse.Namespace) -> None:
    found = await bus.ask(LIST_COLLECTIONS(), ListCollections(), patience=_PATIENCE)
    head = ("COLLECTION", "DOCUMENTS", "CHUNKS", "MODEL", "INDEX", "STATE", "VECTORS", "DELETED", "LAG")
    print(table([head, *map(_row, found.collections)]))


def _row(card: CollectionCard) -> tuple[str, ...]:
    index = card.index
    counts = (card.document_count, card.chunk_count, index.vectors, index.deleted, index.lag)
    documents, chunks, vectors, deleted, lag = map(str, counts)
    return (card.name, documents, chunks, card.embedding_model, index.kind, index.state, vectors, deleted, lag)


async def _documents(bus: Bus, args: argparse.Namespace) -> None:
    after: str | None = None
    count, has_more = 0, True
    while has_more:
        request = ListDocuments(collection=args.collection, filter=args.filter, after=after)
        page = await bus.ask(LIST_DOCUMENTS(), request, patience=_PATIENCE)
        for card in page.documents:
            pages = f"{counted(card.pages, 'page')}, " if card.pages else ""
            stored = card.stored_at.astimezone().isoformat(" ", "seconds")
            print(f"{stored}  {card.document_id}  ({pages}{counted(card.chunks, 'chunk')})")
            after = card.document_id
        count, has_more = count + len(page.documents), page.has_more
    print(counted(count, "document"))


async def _delete(bus: Bus, args: argparse.Namespace) -> None:
    if args.all:
        removed = await bus.ask(DELETE_COLLECTION(), DeleteCollection(collection=args.collection), patience=_PATIENCE)
        print(f"{args.collection}: {_content(removed.documents_deleted, removed.chunks_deleted)} are deleted")
        return
    given = [DeleteDocuments(collection=args.collection, document_id=each) for each in args.document or ()]
    for request in given or [DeleteDocuments(collection=args.collection, filter=args.filter)]:
        deleted = await bus.ask(DELETE_DOCUMENTS(), request, patience=_PATIENCE)
        for document_id in deleted.document_ids:
            print(document_id)
        print(f"{_content(deleted.documents_deleted, deleted.chunks_deleted)} are deleted")


async def _verify(bus: Bus, args: argparse.Namespace) -> None:
    """Print what does not agree; the exit status is 1 if anything does not."""
    names = args.collection
    if not names:
        found = await bus.ask(LIST_COLLECTIONS(), ListCollections(), patience=_PATIENCE)
        names = [card.name for card in found.collections]
    is_sound = True
    for name in names:
        verified = await _last(bus, VERIFY_COLLECTION(), VerifyCollection(collection=name))
        verdict = counted(len(verified.problems), "problem") if verified.problems else "all agrees"
        print(f"{name}: {_content(verified.documents, verified.chunks)}, {verdict}")
        for problem in verified.problems:
            print(f"  {problem}")
        is_sound = is_sound and not verified.problems
    if not is_sound:
        sys.exit(1)


async def _rebuild(bus: Bus, args: argparse.Namespace) -> None:
    card = await _last(bus, REBUILD_COLLECTION(), RebuildCollection(collection=args.collection))
    vectors, chunks = counted(card.index.vectors, "vector"), counted(card.chunk_count, "chunk")
    print(f"{card.name}: {vectors} of {chunks}, {card.index.state}")


async def _last(bus: Bus, address: Address[Any, ReplyT], request: Any) -> ReplyT:
    """Return the last piece of an answer that may take minutes."""
    last: ReplyT | None = None
    async with bus.stream(address, request) as pieces:
        async for piece in pieces:
            if not isinstance(piece, Status):
                last = piece
    if last is None:
        raise LostError("stream_broken", "The answer was empty.")
    return last


def _content(documents: int, chunks: int) -> str:
    return f"{counted(documents, 'document')}, {counted(chunks, 'chunk')}"


def _warn(results: SearchResults) -> None:
    for warning in results.warnings:
        print(f"fusion: {warning}", file=sys.stderr)


def _source(number: int, hit: Hit) -> str:
    """Return where the passage stands: its document and page, or else its heading, and its characters."""
    first, last = hit.pages or (0, 0)
    pages = f", page {first}" if first == last else f", pages {first} to {last}"
    place = pages if hit.pages else f", {' > '.join(hit.headings)}" if hit.headings else ""
    return f"[{number}] {hit.document_id}{place}, characters {hit.start} to {hit.end}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
