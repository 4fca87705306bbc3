"""What the files tell of a model is what it turns out to be when it is loaded."""

import pkgutil
from pathlib import Path
from types import SimpleNamespace

import mlx_lm
import pytest
from mlx_lm import tokenizer_utils, tool_parsers
from mlx_lm.utils import get_total_parameters, quantize_model, save

from actors.catalogue import embedded_models, model_folder
from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from actors.engines.text_dialect import Dialect
from actors.engines.text_model import TextLimits, load_model
from actors.model_facts import discover, reserved_kv_bytes
from actors.model_template import THINK_TOKENS, TOOL_MARKS, TOOL_TOKENS
from bus.messages.catalogue import ModelEntry
from tests.support.tiny_bert import write_tiny_bert

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"


@pytest.fixture(scope="module", params=["llama", "thinker", "toy", "4 bits"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    match request.param:
        case "toy":
            return TOY
        case "4 bits":
            return quantised(TOY, tmp_path_factory.mktemp("models") / "quantised")
        case name:
            return Path(request.getfixturevalue(f"tiny_{name}"))


def quantised(model: Path, folder: Path) -> Path:
    """Write `model` as mlx_lm.convert does, with 4 bits, and 8 for one layer."""
    module, tokenizer, config = mlx_lm.load(str(model), return_config=True)

    def bits(path: str, _: object) -> dict[str, int] | bool:
        return {"group_size": 32, "bits": 8} if path == "model.layers.0.mlp.up_proj" else True

    module, config = quantize_model(module, config, 64, 4, quant_predicate=bits)
    save(folder, model, module, tokenizer, config)
    return folder


def test_files_tell_what_a_chat_model_is(folder: Path) -> None:
    discovered = discover(folder)
    loaded = load_model(folder, TextLimits())
    dialect = Dialect(loaded.tokenizer)

    assert discovered.loaded_bytes == loaded.facts.size_bytes
    assert discovered.family == loaded.facts.family
    assert discovered.context_length == loaded.facts.context_length
    assert discovered.parameters == get_total_parameters(loaded.model)
    assert ("tools" in discovered.capabilities) == dialect.can_call
    assert ("thinking" in discovered.capabilities) == bool(dialect.think_start)
    assert ("chat" in discovered.capabilities) == loaded.tokenizer.has_chat_template
    one_text = ModelEntry(id="m", kind="chat", concurrency=1, context_length=256)
    assert reserved_kv_bytes(discovered, one_text) == loaded.kv_cost.of(1, 256)


@pytest.mark.parametrize("name", ["bert", "minilm"])
async def test_files_tell_what_an_embedding_model_is(tmp_path: Path, name: str) -> None:
    minilm = next(entry for entry in embedded_models() if entry.kind == "embeddings")
    folder = write_tiny_bert(tmp_path) if name == "bert" else model_folder(minilm)
    engine = EmbeddingEngine(folder, EmbeddingLimits(warmup=False))
    facts = await engine.load()
    await engine.unload()

    discovered = discover(folder)

    assert discovered.kind == "embeddings"
    assert discovered.family == facts.family
    assert discovered.dimensions == facts.dimensions
    assert discovered.context_length == facts.context_length
    assert discovered.loaded_bytes == pytest.approx(facts.size_bytes, rel=0.001)


def test_marks_of_tools_are_those_of_mlx_lm() -> None:
    templates = [tokenizer(template=" ".join(marks)) for marks in TOOL_MARKS]
    vocabularies = [tokenizer(tokens=tokens) for tokens in TOOL_TOKENS]

    found = {tokenizer_utils._infer_tool_parser(each) for each in templates + vocabularies}

    # A tokenizer that calls tools as Laguna does says so itself.
    assert found | {"laguna"} == {module.name for module in pkgutil.iter_modules(tool_parsers.__path__)}
    for marks in TOOL_MARKS:
        for missing in marks if len(marks) > 1 else ():
            rest = " ".join(mark for mark in marks if mark != missing)
            assert tokenizer_utils._infer_tool_parser(tokenizer(template=rest)) is None


def test_tokens_of_thoughts_are_those_of_mlx_lm() -> None:
    for tokens in THINK_TOKENS:
        assert tokenizer_utils._infer_thinking(tokenizer(tokens=tokens))[0] is not None
        assert tokenizer_utils._infer_thinking(tokenizer(tokens=tokens[1:]))[0] is None


def tokenizer(template: str = "", tokens: tuple[str, ...] = ()) -> SimpleNamespace:
    """Return all that mlx-lm asks of a tokenizer to tell what its model can."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return SimpleNamespace(chat_template=template, get_vocab=lambda: vocabulary, encode=lambda *_, **__: [0])
