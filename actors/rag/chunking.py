"""From a text to chunks that its embedding model reads, each with where it stands."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from actors.rag.chunk_cutter import Cutter, Place
from actors.rag.chunk_sections import Sections
from actors.rag.chunk_tokens import counts, token_starts
from actors.rag.contents import Chunk, Parsed

# The tokens of a parent, for each that a chunk may have.
_PARENT_CHUNKS = 4
# A chunk by itself may have a token or two more than in its place: one in so many is kept free for them.
_SPARE = 32


def chunks(parsed: Parsed, tokenizer: Tokenizer, most: int, overlap: int) -> tuple[Chunk, ...]:
    """Return the chunks of the text in order, each of at most `most` tokens, of which about `overlap` are shared.

    Tokens are counted without those that a model puts around every text: whoever calls leaves room for them, and gives
    a `tokenizer` that neither cuts off nor fills up. Only space is left out. What begins at a heading shares nothing;
    more than half of `most` is never shared. A single character of more tokens than `most` is a chunk that is
    truncated. A megabyte takes about a second: for a thread.
    """
    cutter = Cutter(parsed.text, token_starts(parsed.text, tokenizer), parsed.headings)
    sections = Sections(parsed.headings, cutter)
    places = list(cutter.places(0, len(parsed.text), most - most // _SPARE, min(overlap, most // 2)))
    found: list[Chunk] = []
    for place, tokens in _fitting(places, cutter, tokenizer, most):
        # Of what was cut smaller, the first part may be in the one before as a whole.
        if found and place[1] <= found[-1].end:
            continue
        parent = sections.parent(place, _PARENT_CHUNKS * most)
        chunk = Chunk(
            start=place[0],
            end=place[1],
            tokens=tokens,
            parent_start=parent[0],
            parent_end=parent[1],
            pages=_pages(parsed.pages, place),
            headings=sections.path(place[0]),
            is_truncated=tokens > most,
        )
        found.append(chunk)
    return tuple(found)


def _fitting(places: Sequence[Place], cutter: Cutter, tokenizer: Tokenizer, most: int) -> Iterator[tuple[Place, int]]:
    """Yield the places, or parts of them, of at most `most` tokens when they stand alone, with how many that are."""
    sizes = counts([cutter.text[start:end] for start, end in places], tokenizer)
    for (start, end), tokens in zip(places, sizes, strict=True):
        if tokens <= most or end - start == 1:
            yield (start, end), tokens
            continue
        halves = list(cutter.places(start, end, max(1, cutter.tokens(start, end) // 2), 0))
        if len(halves) == 1:
            middle = (start + end) // 2
            halves = [cutter.trimmed(start, middle), cutter.trimmed(middle, end)]
        yield from _fitting(halves, cutter, tokenizer, most)


def _pages(pages: Sequence[int], place: Place) -> tuple[int, int] | None:
    return (bisect_right(pages, place[0]), bisect_right(pages, place[1] - 1)) if pages else None
