"""BM25 over the chunks of a collection, in SQL: what terms a text has, and which chunks have those of a query.

The formula is Lucene's (BM25Similarity): https://lucene.apache.org/core/10_0_0/core/org/apache/lucene/search/similarities/BM25Similarity.html
"""

import hashlib
import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence

import duckdb
import numpy as np
import Stemmer
from msgspec import Struct

from actors.rag.filters import Where
from actors.rag.index import Scored
from actors.rag.store_query import as_one
from actors.rag.store_schema import NewDocument
from eventlog.history_rows import Columns

_K1, _B = 1.2, 0.75

# As Lucene's StandardAnalyzer: words, and each character of those scripts that put no spaces between them.
_HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+")
# Lucene's EnglishAnalyzer leaves out these.
_STOP_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not"),
        *("of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was"),
        *("will", "with"),
    )
)

_POSTINGS = "(FROM postings UNION ALL FROM recent)"
_STATISTICS = """
    SELECT number, sum(chunks), sum(terms) FROM collections JOIN documents ON documents.collection = number
    WHERE collections.collection = ? GROUP BY number HAVING sum(chunks) > 0
"""
_FREQUENCIES = f"""
    SELECT term, count(*) FROM {_POSTINGS} SEMI JOIN (SELECT unnest(?::BIGINT[]) AS term) USING (term) GROUP BY term
"""  # noqa: S608 - our own names
_SCORES = f"""
    SELECT label, sum(weight * occurrences / (occurrences + {_K1} * (1 - {_B} + {_B} * length / ?::DOUBLE))) AS score
    FROM {_POSTINGS} JOIN (SELECT unnest(?::BIGINT[]) AS term, unnest(?::DOUBLE[]) AS weight) USING (term) {{allowed}}
    GROUP BY label ORDER BY score DESC, label LIMIT ?
"""  # noqa: S608 - our own numbers and names
_ALLOWED = """
    SEMI JOIN (SELECT unnest(range(label, label + chunks)) AS label FROM documents WHERE collection = ? AND {where})
    USING (label)
"""


def tokens(text: str) -> list[str]:
    """Return the terms of `text`, in their order: stemmed English words in lower case, without stop words."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
    # A stemmer is for one thread at a time.
    return list(Stemmer.Stemmer("english").stemWords([word for word in words if word not in _STOP_WORDS]))


def term_number(collection: int, term: str) -> int:
    """Return what stands for `term` in the postings of a collection: 64 bits of a hash."""
    digest = hashlib.blake2b(f"{collection} {term}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class Postings(Struct, frozen=True):
    """The rows of `postings` of some documents, by term, and how many terms each of the documents has."""

    columns: Columns
    lengths: tuple[int, ...]


def postings(stored: Sequence[NewDocument]) -> Postings:
    """Return the postings of `stored`."""
    known: dict[tuple[int, str], int] = {}
    rows = array("q")
    lengths = []
    for document in stored:
        total = 0
        for label, text in enumerate(document.texts, document.span.label):
            found = tokens(text)
            total += len(found)
            for term, occurrences in Counter(found).items():
                key = document.collection, term
                if key not in known:
                    known[key] = term_number(*key)
                rows.extend((known[key], label, occurrences, len(found)))
        lengths.append(total)
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    table = table[np.argsort(table[:, 0], kind="stable")]
    names = ("term", "label", "occurrences", "length")
    return Postings({name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)}, tuple(lengths))


def search(
    cursor: duckdb.DuckDBPyConnection, collection: str, query: str, limit: int, where: Where | None
) -> list[Scored]:
    """Return the `limit` chunks that fit `query` best, the best first; only those of documents that `where` allows."""
    counts = Counter(tokens(query))
    allowed = "" if where is None else _ALLOWED.format(where=where.sql)
    with as_one(cursor):
        stats = cursor.execute(_STATISTICS, [collection]).fetchall()
        if not stats:
            return []
        ((number, chunks, terms),) = stats
        numbers = {term_number(number, term): count for term, count in counts.items()}
        found = cursor.execute(_FREQUENCIES, [list(numbers)]).fetchall()
        weights = [numbers[term] * (1 + _K1) * _idf(frequency, chunks) for term, frequency in found]
        values = [terms / chunks, [term for term, _ in found], weights]
        if where is not None:
            values += [number, *where.values]
        return [Scored(*row) for row in cursor.execute(_SCORES.format(allowed=allowed), [*values, limit]).fetchall()]


def _idf(frequency: int, chunks: int) -> float:
    return math.log(1 + (chunks - frequency + 0.5) / (frequency + 0.5))
