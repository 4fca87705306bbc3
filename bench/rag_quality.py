"""How well RAG finds what was judged relevant in SciFact and Cranfield: `python -m bench.rag_quality`.

Documents with their vectors go in and questions with theirs are evaluated, both as anyone would over NATS: what is
measured is retrieval, not the embedding model. Exit status 1 if a mode finds less than its bar.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct
from msgspec.structs import replace

from bench.processes import machine
from bench.rag_fusion import Fusion, Given, fusion
from bench.rag_sets import NAMES, TestSet, data_folder, read
from bus.frames import Status
from bus.messages.rag import EvaluateSearch, Evaluation, Judged
from bus.process import run_until_stopped
from bus.subjects import EVALUATE_SEARCH

# nDCG@10 of each set.
_BARS = {
    "bm25": {"scifact": 0.67, "cranfield": 0.38},
    "dense": {"scifact": 0.64, "cranfield": 0.395},
    "hybrid, rrf": {"scifact": 0.71, "cranfield": 0.43},
    "hybrid, convex": {"scifact": 0.71, "cranfield": 0.43},
}
_HEAD = ("set", "mode", "queries", "nDCG@10", "bar", "recall@10", "MRR")
# As many queries with their vectors as a message holds.
_AT_ONCE = 100


class _Figures(Struct, frozen=True, kw_only=True):
    queries: int
    ndcg: float
    recall: float
    mrr: float


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.rag_quality", description=__doc__)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the folder of the sets; FUSION_BENCH_DATA")
    parser.add_argument("--sets", nargs="+", choices=NAMES, default=NAMES)
    args = parser.parse_args()
    absent = [name for name in args.sets if not (args.data / name).is_dir()]
    if absent:
        sys.exit(f"{', '.join(absent)} not in {args.data}; --data or FUSION_BENCH_DATA names the folder of the sets.")
    run_until_stopped(lambda: _report(args))


async def _report(args: argparse.Namespace) -> None:
    print(f"{machine()}\n")
    rows, is_good = [], True
    with TemporaryDirectory(prefix="fusion-bench-") as name:
        async with fusion(Path(name)) as running:
            for each in args.sets:
                found = read(args.data / each)
                seconds = await running.ingest(_documents(found), each)
                print(f"{each}: {len(found.documents)} documents stored in {seconds:.0f} s")
                for mode, bars in _BARS.items():
                    evaluation = await _evaluated(running, each, mode, found)
                    is_good = is_good and evaluation.ndcg >= bars[each]
                    rows.append(_row(each, mode, evaluation, bars[each]))
    print("", *(f"| {' | '.join(row)} |" for row in (_HEAD, ["---"] * len(_HEAD), *rows)), sep="\n")
    if not is_good:
        sys.exit("A mode found less than its bar.")


def _documents(found: TestSet) -> Iterator[Given]:
    for number, (document_id, text) in enumerate(found.documents.items()):
        # Two documents of Cranfield are empty.
        yield Given(document_id, [text or "none"], found.vectors[number : number + 1])


async def _evaluated(running: Fusion, collection: str, mode: str, found: TestSet) -> _Figures:
    queries = [
        Judged(query=text, relevant=found.relevant[id_], embedding=tuple(row))
        for (id_, text), row in zip(found.queries.items(), found.query_vectors.tolist(), strict=True)
    ]
    request = EvaluateSearch(queries=tuple(queries), collection=collection)
    request = replace(request, mode=mode.partition(",")[0], fusion="convex" if "convex" in mode else "rrf")
    parts = []
    for first in range(0, len(queries), _AT_ONCE):
        part = replace(request, queries=request.queries[first : first + _AT_ONCE])
        async with running.bus.stream(EVALUATE_SEARCH(), part) as answer:
            parts.append([item async for item in answer if not isinstance(item, Status)][-1])
    return _together(parts)


def _together(parts: list[Evaluation]) -> _Figures:
    count = sum(part.queries for part in parts)

    def mean(figures: Iterable[float]) -> float:
        return sum(part.queries * figure for part, figure in zip(parts, figures, strict=True)) / count

    return _Figures(
        queries=count,
        ndcg=mean(part.ndcg for part in parts),
        recall=mean(part.recall for part in parts),
        mrr=mean(part.mrr for part in parts),
    )


def _row(name: str, mode: str, found: _Figures, bar: float) -> tuple[str, ...]:
    return (name, mode, f"{found.queries}", f"{found.ndcg:.4f}", f"{bar}", f"{found.recall:.4f}", f"{found.mrr:.4f}")


if __name__ == "__main__":
    main()
