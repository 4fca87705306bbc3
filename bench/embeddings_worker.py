"""Embeds what comes on stdin with one library. Run by `embeddings_inside.py`, with the Python that has the library.

Each line is a JSON list of texts, answered by a line with what that took and the vectors. The first line tells what
was loaded. Needs nothing of Fusion's but for its own engine.
"""

import argparse
import asyncio
import base64
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Embed = Callable[[list[str]], bytes]


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m bench.embeddings_worker", description=__doc__)
    parser.add_argument("library", choices=("Fusion", "sentence-transformers"))
    parser.add_argument("folder", type=Path, help="of the model")
    args = parser.parse_args()
    # Whatever a library prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    embed, told = (_fusion if args.library == "Fusion" else _sentence_transformers)(args.folder)
    print(json.dumps(told), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(embed, json.loads(line))), file=answers, flush=True)


def _answer(embed: Embed, texts: list[str]) -> dict[str, Any]:
    cpu, begun = time.process_time(), time.perf_counter()
    vectors = embed(texts)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "vectors": base64.b64encode(vectors).decode()}


def _fusion(folder: Path) -> tuple[Embed, dict[str, Any]]:
    """Return what embeds with Fusion's engine, as a model's process has it, and the memory of the weights."""
    from actors.engines.blas import prepare_blas  # noqa: PLC0415 - a peer's Python does not have it

    prepare_blas()
    from actors.capabilities import ModelFiles, capability  # noqa: PLC0415 - the same
    from actors.config import ActorsConfig  # noqa: PLC0415 - the same
    from actors.model_facts import discover  # noqa: PLC0415 - the same
    from bus.messages.catalogue import ModelEntry  # noqa: PLC0415 - the same
    from bus.messages.embeddings import EmbedRequest  # noqa: PLC0415 - the same

    files = ModelFiles(model=folder, draft=None, state=folder)
    config = ActorsConfig(embedding_cache_bytes=0)
    engine: Any = capability(ModelEntry(id="measured", kind="embeddings"), files, config).engine
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.load())

    async def run(texts: list[str]) -> bytes:
        work = engine.prepare(EmbedRequest(input=tuple(texts), truncate=True))
        return b"".join([vector async for chunk in engine.embed(work) for vector in chunk.vectors])

    estimated, taken = discover(folder).loaded_bytes, importlib.import_module("mlx.core").get_active_memory()
    return lambda texts: loop.run_until_complete(run(texts)), {"estimated_bytes": estimated, "taken_bytes": taken}


def _sentence_transformers(folder: Path) -> tuple[Embed, dict[str, Any]]:
    model = importlib.import_module("sentence_transformers").SentenceTransformer(str(folder), device="cpu")

    def embed(texts: list[str]) -> bytes:
        vectors: bytes = model.encode(texts, batch_size=32, show_progress_bar=False).astype("<f4").tobytes()
        return vectors

    return embed, {}


if __name__ == "__main__":
    main()
