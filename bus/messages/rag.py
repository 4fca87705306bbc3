"""What is said with the rag actor to find passages, and to have a question answered from them."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bus.messages.chat import Message, Usage

CollectionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
# Whatever a path may be, but for control characters.
DocumentId = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,255}\Z")]
Metadata = dict[str, Any]
# MongoDB's query language, as far as docs/rag.md tells: {"year": {"$gte": 2020}, "author": "Ada"}.
Filter = dict[str, Any]
Mode = Literal["hybrid", "dense", "bm25"]
Fusion = Literal["rrf", "convex"]
QueryText = Annotated[str, Meta(min_length=1, max_length=32_000)]
Collections = Annotated[tuple[CollectionName, ...], Meta(min_length=1, max_length=32)]
TopK = Annotated[int, Meta(ge=1, le=1000)]
Candidates = Annotated[int, Meta(ge=1, le=1000)]
Threshold = Annotated[float, Meta(ge=-1, le=1)]
Vector = tuple[float, ...]
MaxTokens = Annotated[int, Meta(ge=1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# How relevant documents are to a query, by their ids: above 0 is relevant.
Relevant = Annotated[dict[str, float], Meta(min_length=1)]
Depth = Annotated[int, Meta(ge=1, le=100)]


class SearchDocuments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Find the `top_k` chunks that fit `query` best.

    `candidates` of each kind of search go into the `fusion`. `similarity_threshold` is for the cosine only; unless
    given, nothing is left out for it. `filter` is on the metadata of documents. `rerank_model` orders the candidates
    anew. `parent` gives with each chunk the section around it. `embedding` is the vector of the query, if it is known.
    """

    query: QueryText
    collections: Collections = ("default",)
    top_k: TopK = 5
    mode: Mode = "hybrid"
    fusion: Fusion = "rrf"
    candidates: Candidates = 100
    similarity_threshold: Threshold | None = None
    filter: Filter = {}
    rerank_model: str | None = None
    parent: bool = False
    embedding: Vector | None = None


class Passage(Struct, frozen=True, kw_only=True):
    """A part of a document: characters `start` to `end` of its text."""

    text: str
    start: int
    end: int


class Hit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A chunk that was found: characters `start` to `end` of its document's text.

    `score` is that of the last step: 0 to 1 from a reranker, of the fusion, else the cosine or BM25. `pages` are the
    first and last page it stands on, counted from 1; `headings` lead to it, the outermost first.
    """

    chunk_id: str
    document_id: str
    collection: str
    text: str
    score: float
    start: int
    end: int
    filename: str = ""
    metadata: Metadata = {}
    pages: tuple[int, int] | None = None
    headings: tuple[str, ...] = ()
    cosine: float | None = None
    bm25: float | None = None
    rerank: float | None = None
    parent: Passage | None = None


class SearchSeconds(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long each step took, in seconds; `dense` and `bm25` run side by side."""

    embedding: float = 0.0
    dense: float = 0.0
    bm25: float = 0.0
    rerank: float = 0.0
    total: float = 0.0


class SearchResults(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was found, best first. `warnings` say, in words, what was left out, such as a step that failed.

    `degraded`: an index is being rebuilt, or a step failed, and the rest answered.
    """

    hits: tuple[Hit, ...]
    seconds: SearchSeconds
    degraded: bool = False
    warnings: tuple[str, ...] = ()


class QueryDocuments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Answer `search.query` from what is found. `messages` are what was said before, oldest first.

    `model` is a chat model; unless given, the one that the configuration names, or the first warm one.
    """

    search: SearchDocuments
    model: str | None = None
    messages: tuple[Message, ...] = ()
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    seed: Seed | None = None


class Citation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A source that the answer names: characters `answer_start` to `answer_end` of it are the mark, such as [1].

    `number` is the source's place among the results, counted from 1.
    """

    number: int
    chunk_id: str
    document_id: str
    collection: str
    start: int
    end: int
    answer_start: int
    answer_end: int
    pages: tuple[int, int] | None = None


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole answer. `found` is false if no document had anything to say; then `text` says so.

    `error` tells, in words, why there is no answer, or not all of it, although there are results. `warnings` say what
    the model was not given, and what it named that is no source. Times are in seconds.
    """

    text: str
    found: bool
    model: str
    citations: tuple[Citation, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    error_code: str | None = None
    error: str | None = None
    retrieval_seconds: float = 0.0
    generation_seconds: float = 0.0
    warnings: tuple[str, ...] = ()


class QueryChunk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of what comes back: the results first, then pieces of text and citations, the whole answer last.

    `reasoning` is what the model thinks before, if it does; it is no part of the answer.
    """

    results: SearchResults | None = None
    text: str = ""
    citation: Citation | None = None
    answer: Answer | None = None
    reasoning: str = ""


class Judged(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A query, and how relevant documents are to it by their ids: above 0 is relevant."""

    query: QueryText
    relevant: Relevant
    embedding: Vector | None = None


class EvaluateSearch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Say how well a collection answers `queries`, by the first `k` documents of each; the rest as in a search."""

    queries: Annotated[tuple[Judged, ...], Meta(min_length=1, max_length=1000)]
    collection: CollectionName = "default"
    k: Depth = 10
    mode: Mode = "hybrid"
    fusion: Fusion = "rrf"
    candidates: Candidates = 100
    rerank_model: str | None = None


class Evaluation(Struct, frozen=True, kw_only=True):
    """Means over the queries: nDCG@k with binary gain, recall@k, and the reciprocal rank of the first that is relevant.

    `seconds_p50` and `seconds_p95` are of one search without the embedding of its query.
    """

    queries: int
    k: int
    ndcg: float
    recall: float
    mrr: float
    seconds_p50: float
    seconds_p95: float
