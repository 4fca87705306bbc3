"""The crowd that the benchmark of embeddings sends: it knows a right vector from a wrong one."""

from pathlib import Path
from random import Random

from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from bench.embeddings_inside import Vectors
from bench.embeddings_steady import Crowd, Outcome
from bench.load import Target
from tests.support.embeddings import embed
from tests.support.stack import EMBED_MODEL, Stack, embeddings_actor, stack
from tests.support.tiny_bert import write_tiny_bert

TEXTS = ("the old tree", "a bird sings", "the river runs fast and cold")


async def test_vector_of_another_text_is_wrong_and_a_refusal_an_error(nats_url: str, tmp_path: Path) -> None:
    engine = EmbeddingEngine(write_tiny_bert(tmp_path / "tiny"), EmbeddingLimits(warmup=False))
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, engine):
        known = {text: await embed(engine, text) for text in TEXTS}
        moved = dict(zip(TEXTS, (known[text] for text in (*TEXTS[1:], TEXTS[0])), strict=True))

        right = await _sent(edge, EMBED_MODEL, known)
        wrong = await _sent(edge, EMBED_MODEL, moved)
        refused = await _sent(edge, "nobody", known)

    assert (right.requests, right.wrong) == (1, 0)
    assert wrong.wrong == wrong.texts > 0
    assert (refused.requests, refused.errors.total()) == (0, 1)


async def _sent(edge: Stack, model: str, known: dict[str, Vectors]) -> Outcome:
    crowd = Crowd(Target("edge", edge.url, model), known, Random(1))  # noqa: S311 - no secrets
    await crowd.send(edge.http)
    return crowd.outcome
