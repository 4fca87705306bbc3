"""BM25 over the chunks of a collection: what terms a text has, and which chunks have those of a query.

Postings lie in DuckDB, which gives those of a query; NumPy sums them up.

The formula is Lucene's (BM25Similarity): https://lucene.apache.org/core/10_0_0/core/org/apache/lucene/search/similarities/BM25Similarity.html
"""

import hashlib
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import Stemmer
from msgspec import Struct
from numpy.typing import NDArray

from actors.rag.filters import Where
from actors.rag.index import Scored
from actors.rag.store_query import as_one, labels_of
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
_FOUND = f"""
    SELECT term, label, occurrences, length FROM {_POSTINGS} SEMI JOIN (SELECT unnest(?::BIGINT[]) AS term) USING (term)
"""  # noqa: S608 - our own names


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
    with as_one(cursor):
        stats = cursor.execute(_STATISTICS, [collection]).fetchall()
        if not stats:
            return []
        ((number, chunks, terms),) = stats
        counts = {term_number(number, term): count for term, count in Counter(tokens(query)).items()}
        found = cursor.execute(_FOUND, [list(counts)]).fetchnumpy()
        allowed = None if where is None else labels_of(cursor, collection, where)
    labels, scores = _scores(found, counts, int(chunks), terms / chunks)
    if allowed is not None:
        is_allowed = np.isin(labels, allowed)
        labels, scores = labels[is_allowed], scores[is_allowed]
    return _best(labels, scores, limit)


def _scores(
    found: Mapping[str, NDArray[Any]], counts: Mapping[int, int], chunks: int, mean_length: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the labels in the rows of `found`, postings of all terms that `counts` has, and the score of each.

    Sums in SQL take twice as long.
    """
    terms, of_term, frequencies = np.unique(found["term"], return_inverse=True, return_counts=True)
    idf = np.log1p((chunks - frequencies + 0.5) / (frequencies + 0.5))
    weights = (1 + _K1) * idf * np.array([counts[term] for term in terms.tolist()])
    occurrences, lengths = found["occurrences"], found["length"]
    parts = weights[of_term] * occurrences / (occurrences + _K1 * (1 - _B + _B * lengths / mean_length))
    labels, of_label = np.unique(found["label"], return_inverse=True)
    return np.asarray(labels, np.int64), np.asarray(np.bincount(of_label, weights=parts), np.float64)


def _best(labels: NDArray[np.int64], scores: NDArray[np.float64], limit: int) -> list[Scored]:
    """Return the labels of the `limit` highest scores, the highest first; of those alike, the lowest label."""
    if scores.size > limit:
        may = scores >= np.partition(scores, -limit)[-limit]
        labels, scores = labels[may], scores[may]
    order = np.lexsort((labels, -scores))[:limit]
    return list(map(Scored, labels[order].tolist(), scores[order].tolist()))
