"""One index of a peer, filled and asked in the Python that has it: `python rag_peer.py chroma|lancedb FOLDER`.

FOLDER has `texts.json` and `vectors.npy`, `queries.json` and `query_vectors.npy`. Prints as JSON how long it took to
fill it, its memory, and for each mode the seconds and the row numbers found by each query. Needs nothing of Fusion.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_BATCH = 5000
_FOUND = 10
# As Fusion has it: neighbours of each node, and how far is looked when it is made and when it is asked.
_NEIGHBOURS, _EF_MADE, _EF = 16, 200, 128

# Returns the row numbers, as text, of what is found by a query and its vector.
Search = Callable[[str, Any], list[str]]


def main() -> None:
    """Fill, ask, print."""
    peer, name = sys.argv[1:]
    folder = Path(name)
    texts, queries = (json.loads((folder / file).read_text()) for file in ("texts.json", "queries.json"))
    vectors, query_vectors = (np.load(folder / file) for file in ("vectors.npy", "query_vectors.npy"))
    with tempfile.TemporaryDirectory(prefix="fusion-bench-peer-") as place:
        begun = time.perf_counter()
        modes = {"chroma": _chroma, "lancedb": _lancedb}[peer](place, texts, vectors)
        filled = time.perf_counter() - begun
        asked = {mode: _asked(search, queries, query_vectors) for mode, search in modes.items()}
        print(json.dumps({"ingest_seconds": filled, "rss_mb": _rss_mb(), "modes": asked}))


def _asked(search: Search, queries: list[str], vectors: Any) -> dict[str, Any]:
    search(queries[0], vectors[0])
    seconds, hits = [], []
    before = time.process_time()
    for query, vector in zip(queries, vectors, strict=True):
        begun = time.perf_counter()
        hits.append(search(query, vector))
        seconds.append(time.perf_counter() - begun)
    return {"seconds": seconds, "cpu_seconds": time.process_time() - before, "hits": hits}


def _chroma(place: str, texts: list[str], vectors: Any) -> dict[str, Search]:
    import chromadb  # noqa: PLC0415 - only in its own Python

    client = chromadb.PersistentClient(place, chromadb.Settings(anonymized_telemetry=False))
    graph = {"space": "ip", "ef_construction": _EF_MADE, "ef_search": _EF, "max_neighbors": _NEIGHBOURS}
    collection = client.create_collection("chunks", configuration={"hnsw": graph}, embedding_function=None)
    for first in range(0, len(texts), _BATCH):
        numbers = range(first, min(first + _BATCH, len(texts)))
        some = slice(first, first + _BATCH)
        collection.add(ids=[str(number) for number in numbers], documents=texts[some], embeddings=vectors[some])

    def dense(_: str, vector: Any) -> list[str]:
        found = collection.query(query_embeddings=[vector], n_results=_FOUND, include=["documents", "distances"])
        return list(found["ids"][0])

    return {"dense": dense}


def _lancedb(place: str, texts: list[str], vectors: Any) -> dict[str, Search]:
    import lancedb  # noqa: PLC0415 - only in its own Python
    import pyarrow as pa  # noqa: PLC0415 - comes with it
    from lancedb.rerankers import RRFReranker  # noqa: PLC0415 - as above

    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    chunks = pa.table({"id": pa.array(range(len(texts))), "text": pa.array(texts), "vector": rows})
    table = lancedb.connect(place).create_table("chunks", chunks.slice(0, _BATCH))
    for first in range(_BATCH, len(texts), _BATCH):
        table.add(chunks.slice(first, _BATCH))
    graph = {"index_type": "IVF_HNSW_FLAT", "num_partitions": 1, "m": _NEIGHBOURS, "ef_construction": _EF_MADE}
    table.create_index("dot", **graph)
    table.create_fts_index("text")
    reranker = RRFReranker()

    def ids(found: Any) -> list[str]:
        return [str(row["id"]) for row in found.to_list()]

    def dense(_: str, vector: Any) -> list[str]:
        return ids(table.search(vector).distance_type("dot").ef(_EF).limit(_FOUND))

    def words(query: str, _: Any) -> list[str]:
        return ids(table.search(_plain(query), query_type="fts").limit(_FOUND))

    def hybrid(query: str, vector: Any) -> list[str]:
        both = table.search(query_type="hybrid").vector(vector).text(_plain(query)).distance_type("dot").ef(_EF)
        # As many candidates of each kind as Fusion takes.
        return ids(both.rerank(reranker).limit(100))[:_FOUND]

    return {"dense": dense, "bm25": words, "hybrid": hybrid}


def _plain(query: str) -> str:
    """Return the words alone, for signs have a meaning in a query."""
    return "".join(letter if letter.isalnum() else " " for letter in query)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    main()
