"""What was found, as it is told: within the size of a message."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from actors.rag.store_rows import Row
from bus.messages.rag import Hit, SearchResults

# Beside the results, in a message: its frame, and headers.
_BESIDE = 16 * 1024

_encode = msgspec.json.Encoder().encode


def hit(row: Row, score: float, **scores: float | None) -> Hit:
    """Return a chunk with its `score`, and those of single steps."""
    return Hit(
        chunk_id=row.chunk_id,
        document_id=row.document_id,
        collection=row.collection,
        text=row.text,
        score=score,
        start=row.start,
        end=row.end,
        filename=row.filename,
        metadata=row.metadata,
        pages=row.pages,
        headings=row.headings,
        parent=row.parent,
        **scores,
    )


def fitted(results: SearchResults, most_bytes: int) -> SearchResults:
    """Return as much as a message of `most_bytes` may hold: the sections around the last hits go first, then hits."""
    room = most_bytes - _BESIDE - _size(replace(results, hits=()))
    if _size(results) <= most_bytes - _BESIDE:
        return results
    bare: list[Hit] = []
    for each in results.hits:
        without = replace(each, parent=None)
        room -= _size(without) + 1
        if room < 0:
            break
        bare.append(without)
    hits = _with_parents(bare, results.hits, room)
    warnings = []
    if len(bare) < len(results.hits):
        warnings.append(f"Only {len(bare)} of {len(results.hits)} hits fit into a message.")
    left_out = sum(
        one.parent is None and given.parent is not None for one, given in zip(hits, results.hits, strict=False)
    )
    if left_out:
        warnings.append(f"The sections around {left_out} hits do not fit into a message.")
    return replace(results, hits=tuple(hits), warnings=(*results.warnings, *warnings))


def _with_parents(bare: Sequence[Hit], given: Sequence[Hit], room: int) -> list[Hit]:
    hits = []
    for one, whole in zip(bare, given, strict=False):
        room -= _size(whole) - _size(one)
        hits.append(whole if room >= 0 else one)
    return hits


def _size(message: msgspec.Struct) -> int:
    return len(_encode(message))
