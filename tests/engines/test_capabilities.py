"""The settings of a model reach its engine."""

from pathlib import Path

from actors.capabilities import SUBJECTS, ModelFiles, capability
from actors.config import ActorsConfig
from actors.engines.embeddings import EmbeddingEngine
from actors.engines.pictures import PictureEngine
from actors.engines.rerank import RerankerEngine
from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from bus.messages.catalogue import ModelEntry
from tests.support.tiny_bert import write_tiny_bert
from tests.support.tiny_pictures import siglip


def files_in(folder: Path) -> ModelFiles:
    files = ModelFiles(
        model=folder / "model", draft=folder / "draft", adapter=folder / "adapter", state=folder / "state"
    )
    for each in (files.model, folder / "adapter"):
        each.mkdir()
    return files


def limits(files: ModelFiles, config: ActorsConfig, **said: int) -> TextLimits:
    engine = capability(ModelEntry(id="a/b", kind="chat", **said), files, config).engine  # type: ignore[arg-type]  # kv_bits
    assert isinstance(engine, TextEngine)
    return engine._limits


async def test_what_a_model_says_goes_before_what_is_said_for_all(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    config = ActorsConfig(
        default_concurrency=5, prefix_cache_bytes=6, kv_cache_bytes=7, prefix_cache_on_disk=True, warmup=False
    )
    kept = tmp_path / "state/prefixes/a%2Fb"

    unsaid = limits(files, config)
    said = limits(
        files,
        config,
        concurrency=1,
        context_length=100,
        prefix_cache_bytes=0,
        kv_cache_bytes=2,
        kv_bits=4,
        trust_code=True,
    )

    assert unsaid == TextLimits(
        max_batch=5,
        prefix_bytes=6,
        kv_bytes=7,
        prefix_folder=kept,
        draft=files.draft,
        adapter=files.adapter,
        warmup=False,
    )
    assert said == TextLimits(
        max_batch=1,
        context_length=100,
        prefix_bytes=0,
        kv_bytes=2,
        kv_bits=4,
        prefix_folder=kept,
        draft=files.draft,
        adapter=files.adapter,
        trust_code=True,
        warmup=False,
    )


async def test_models_that_read_pictures_have_an_engine_of_their_own(tmp_path: Path) -> None:
    def engine(folder: Path) -> object:
        files = ModelFiles(model=folder, draft=None, state=tmp_path)
        return capability(ModelEntry(id="m", kind="embeddings"), files, ActorsConfig()).engine

    assert isinstance(engine(siglip(tmp_path / "siglip")), PictureEngine)
    assert isinstance(engine(write_tiny_bert(tmp_path / "bert")), EmbeddingEngine)


async def test_reranker_answers_what_rerankers_are_asked(tmp_path: Path) -> None:
    built = capability(ModelEntry(id="a/b", kind="rerank"), files_in(tmp_path), ActorsConfig())

    assert isinstance(built.engine, RerankerEngine)
    assert built.subjects == SUBJECTS["rerank"]
