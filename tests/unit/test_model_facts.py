import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.catalogue import ModelFilesError
from actors.model_facts import discover, estimated_bytes, reserved_kv_bytes
from bus.messages.catalogue import ModelEntry
from tests.support.model_folders import CHAT, model_folder

ENTRY = ModelEntry(id="m", kind="chat")
MIB = 2**20
PROCESS = 128 * MIB
PACKED = np.zeros((8, 16), np.uint32)  # In 4 bits each row has 128 weights, with one scale for each 64 of them.
SCALES = np.zeros((8, 2), np.float16)
BYTES_OF_SCALE = np.zeros((8, 4), np.uint8)

KEYS = (
    *("model_type", "architectures", "vision_config", "text_config", "quantization", "num_labels", "id2label", "dim"),
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "layer_types", "sliding_window", "kv_lora_rank"),
    *("qk_rope_head_dim", "sliding_window_pattern", "full_attention_interval", "max_position_embeddings", "bits"),
)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 9), st.sampled_from([2**63, 10**400, 0.5]), st.text(max_size=3)
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2),
    max_leaves=4,
)


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("config", "files", "kind", "modalities"),
    [
        (CHAT, (), "chat", ("text",)),
        ({"model_type": "qwen2_vl", "vision_config": {}}, (), "vision", ("text", "image")),
        ({"model_type": "mllama"}, ("preprocessor_config.json",), "vision", ("text", "image")),
        (
            {"model_type": "gemma3n", "vision_config": {}, "audio_config": {}, "video_token_id": 5},
            (),
            "vision",
            ("text", "image", "video", "audio"),
        ),
        ({"model_type": "bert"}, (), "embeddings", ("text",)),
        ({"model_type": "xlm-roberta"}, (), "embeddings", ("text",)),
        (
            {"model_type": "siglip", "vision_config": {}},
            ("preprocessor_config.json",),
            "embeddings",
            ("text", "image", "video"),
        ),
        ({"model_type": "qwen2_vl", "vision_config": {}}, ("modules.json",), "embeddings", ("text", "image", "video")),
        ({"model_type": "qwen3"}, ("modules.json",), "embeddings", ("text",)),
        ({"model_type": "qwen3"}, ("1_Pooling/config.json",), "embeddings", ("text",)),
        ({"dim": 1024}, (), "embeddings", ("text",)),
        ({"model_type": "whisper"}, ("preprocessor_config.json",), "transcription", ("text", "audio")),
        ({"n_mels": 80}, (), "transcription", ("text", "audio")),
        ({"model_type": "qwen3_tts"}, (), "speech", ("text", "audio")),
        ({"istftnet": {}}, (), "speech", ("text", "audio")),
        (
            {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "num_labels": 1},
            (),
            "rerank",
            ("text",),
        ),
        (
            {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
            ("modules.json",),
            "rerank",
            ("text",),
        ),
        ({}, ("model_index.json",), "image", ("text", "image")),
        ({}, ("transformer/config.json", "vae/config.json"), "image", ("text", "image")),
    ],
)
def test_kind_is_told_by_the_files(
    tmp_path: Path, config: dict[str, Any], files: tuple[str, ...], kind: str, modalities: tuple[str, ...]
) -> None:
    folder = model_folder(tmp_path, config)
    for name in files:
        write(folder / name, {})

    discovered = discover(folder)

    assert (discovered.kind, discovered.modalities) == (kind, modalities)


@pytest.mark.parametrize("name", ["Qwen3-Reranker-0.6B-mlx", "models--Qwen--Qwen3-Reranker-0.6B/snapshots/1a2b"])
def test_reranker_that_is_built_like_a_chat_model_is_known_by_its_name(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path / name, {"model_type": "qwen3"})
    (tmp_path / "link").symlink_to(folder)

    assert discover(folder).kind == discover(tmp_path / "link").kind == "rerank"


def test_kind_that_is_said_goes_before_what_the_files_tell(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, CHAT)

    said = discover(folder, "rerank")

    assert discover(folder).kind == "chat"
    assert (said.kind, said.capabilities, said.kv) == ("rerank", ("rerank",), None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Ops-MM-embedding-v1-7B", "embeddings"),
        ("gme-Qwen2-VL-2B-Instruct", "embeddings"),
        ("models--Qwen--Qwen3-VL-Embedding-2B/snapshots/5f1a", "embeddings"),
        ("Qwen2-VL-7B-Instruct", "vision"),
        ("segment-embedded-vl", "vision"),
    ],
)
def test_embedding_models_of_qwen_are_known_by_their_names(tmp_path: Path, name: str, kind: str) -> None:
    folder = model_folder(tmp_path / name, {"model_type": "qwen2_vl", "vision_config": {}})

    assert discover(folder).kind == kind


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "has no config.json"),
        ({"vocab_size": 7}, r"config\.json does not say what the model is for"),
        ({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, r"config\.json does not say"),
        ({"model_type": 7, "vision_config": 7, "architectures": {"a": 1}}, r"config\.json does not say"),
    ],
)
def test_model_for_nothing_that_is_known_is_refused(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelFilesError, match=why):
        discover(model_folder(tmp_path, config))


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ModelFilesError, match="no weights in the safetensors format"):
        discover(folder)


@pytest.mark.parametrize(
    ("quantization", "tensors", "quantisation", "parameters"),
    [
        ({"bits": 4, "group_size": 64}, {"a.weight": PACKED, "a.scales": SCALES, "a.biases": SCALES}, "4bit", 1024),
        ({"bits": 8, "group_size": 64}, {"a.weight": PACKED, "a.scales": SCALES, "a.biases": SCALES}, "8bit", 512),
        ({"bits": 4, "mode": "mxfp4"}, {"a.weight": PACKED, "a.scales": BYTES_OF_SCALE}, "mxfp4", 1024),
        ({"bits": 4, "a": {"bits": 8}}, {"a.weight": PACKED, "b.weight": PACKED, "a.bias": SCALES}, "4bit", 1552),
    ],
)
def test_packed_weights_are_counted_one_by_one_and_their_scales_are_not(
    tmp_path: Path, quantization: dict[str, Any], tensors: dict[str, Any], quantisation: str, parameters: int
) -> None:
    discovered = discover(model_folder(tmp_path, CHAT | {"quantization": quantization}, **tensors))

    assert (discovered.quantisation, discovered.parameters) == (quantisation, parameters)
    assert discovered.size_bytes == sum(each.nbytes for each in tensors.values())


@pytest.mark.parametrize(
    ("said", "tensors", "quantisation", "parameters"),
    [
        ({"quant_method": "mxfp4"}, {"a_blocks": BYTES_OF_SCALE, "a_scales": BYTES_OF_SCALE}, "mxfp4", 64),
        (
            {"quant_method": "awq", "bits": 4},
            {"a.qweight": PACKED.view(np.int32), "a.qzeros": PACKED, "a.scales": SCALES},
            "4bit",
            1024,
        ),
        ({"quant_method": "bitnet"}, {"a.weight": BYTES_OF_SCALE, "a.weight_scale": SCALES}, "2bit", 128),
        ({"quant_method": "unheard-of"}, {"a.weight": SCALES}, None, 16),
        ({"bits": "4"}, {"a.weight": SCALES}, None, 16),
    ],
)
def test_other_ways_to_quantise_are_known(
    tmp_path: Path, said: dict[str, Any], tensors: dict[str, Any], quantisation: str | None, parameters: int
) -> None:
    discovered = discover(model_folder(tmp_path, CHAT | {"quantization_config": said}, **tensors))

    assert (discovered.quantisation, discovered.parameters) == (quantisation, parameters)


def test_shards_count_together_and_other_weights_do_not(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, a=np.zeros(10, np.float16), positions=np.zeros(9, np.int64))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    model_folder(tmp_path, b=np.zeros(5, np.float32))
    (folder / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    model_folder(tmp_path, c=np.zeros(99, np.float32))
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")

    discovered = discover(folder)

    assert (discovered.parameters, discovered.dtype, discovered.size_bytes) == (15, "float16", 20 + 72 + 20)


def test_parts_of_an_image_model_count_together(tmp_path: Path) -> None:
    for part in ("transformer", "vae"):
        model_folder(tmp_path / part, {}, a=np.zeros(8, np.float16))
    write(tmp_path / "model_index.json", {"_class_name": "FluxPipeline"})

    discovered = discover(tmp_path)

    assert (discovered.family, discovered.parameters, discovered.capabilities) == ("FluxPipeline", 16, ("image",))


@pytest.mark.parametrize(
    ("template", "tokens", "capabilities"),
    [
        (None, (), ("completion",)),
        ("{{ messages }}", (), ("completion", "chat")),
        ("<tool_call>{{ tool_call.name }}", (), ("completion", "chat", "tools")),
        ("[TOOL_CALLS]", ("<think>", "</think>"), ("completion", "chat", "tools", "thinking")),
        ("<think>", ("<think>",), ("completion", "chat")),
        (None, ("<|tool_call_start|>", "<|tool_call_end|>"), ("completion", "tools")),
    ],
)
@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "chat_template.json"])
def test_template_and_tokens_tell_what_a_chat_model_can(
    tmp_path: Path, template: str | None, tokens: tuple[str, ...], capabilities: tuple[str, ...], place: str
) -> None:
    folder = model_folder(tmp_path)
    write(folder / "tokenizer.json", {"added_tokens": [{"id": 1, "content": each} for each in tokens], "model": {}})
    if template and place.endswith(".jinja"):
        (folder / place).write_text(template)
    elif template:
        write(folder / place, {"chat_template": template})

    assert discover(folder).capabilities == capabilities


@given(
    st.dictionaries(st.sampled_from(KEYS), VALUES), st.sampled_from(["llama", "bert", "qwen2_vl", "siglip", "whisper"])
)
@pytest.mark.parametrize("name", ["any", "any-embedding"])
def test_any_configuration_is_understood_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, config: dict[str, Any], family: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / name
    model_folder(folder, CHAT | {"model_type": family} | config)

    try:
        discovered = discover(folder)
    except ModelFilesError:
        return

    assert estimated_bytes(discovered, ModelEntry(id="m", kind="chat", kv_bits=8)) >= PROCESS


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"])
def test_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (model_folder(tmp_path) / name).write_bytes(b"{\xff")

    with pytest.raises(ModelFilesError, match=name):
        discover(tmp_path)


@pytest.mark.parametrize(
    ("config", "tokens", "numbers"),
    [
        ({}, 100, 100 * 2 * 2 * 2 * 16),
        ({"num_key_value_heads": None}, 100, 100 * 2 * 2 * 4 * 16),
        ({"head_dim": 8}, 100, 100 * 2 * 2 * 2 * 8),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 10}, 100, (100 + 10) * 64),
        ({"layer_types": ["full_attention", "sliding_attention"]}, 100, 2 * 100 * 64),
        ({"layer_types": ["full_attention", "linear_attention"]}, 100, 100 * 64),
        ({"num_hidden_layers": 6, "sliding_window_pattern": 3, "sliding_window": 10}, 100, (2 * 100 + 4 * 10) * 64),
        ({"num_hidden_layers": 8, "full_attention_interval": 4}, 100, 2 * 100 * 64),
        ({"kv_lora_rank": 32, "qk_rope_head_dim": 8}, 100, 100 * 2 * 40),
        (
            {
                "model_type": "deepseek_v2",
                "kv_lora_rank": 32,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 4,
                "v_head_dim": 6,
            },
            100,
            100 * 2 * 4 * (8 + 4 + 6),
        ),
    ],
)
def test_kept_numbers_follow_the_layers(tmp_path: Path, config: dict[str, Any], tokens: int, numbers: int) -> None:
    kv = discover(model_folder(tmp_path, CHAT | config)).kv

    assert kv is not None
    assert kv.numbers(tokens) == numbers


def test_language_model_of_a_vision_model_is_found(tmp_path: Path) -> None:
    config = {"model_type": "qwen2_vl", "vision_config": {"hidden_size": 9}, "text_config": CHAT}

    discovered = discover(model_folder(tmp_path, config))

    assert discovered.context_length == 256
    assert discovered.kv is not None
    assert discovered.kv.full == 128


def test_last_layer_tells_the_dimensions_of_vectors(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, {"model_type": "bert", "hidden_size": 64})
    assert discover(folder).dimensions == 64

    write(folder / "2_Dense" / "config.json", {"out_features": 128})
    write(folder / "3_Dense" / "config.json", {"out_features": 32})
    assert discover(folder).dimensions == 32


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of float32, which is computed as it is on any machine. A token of a text takes 512 bytes."""
    return model_folder(tmp_path / "model", a=np.zeros(MIB, np.float32))


def test_estimate_is_weights_and_texts_and_process(model: Path) -> None:
    assert estimated_bytes(discover(model), ENTRY) == int(1.1 * 4 * MIB) + 4 * 256 * 512 + PROCESS


@pytest.mark.parametrize(
    ("said", "reserved"),
    [
        ({}, 4 * 256 * 512),
        ({"concurrency": 2}, 2 * 256 * 512),
        ({"concurrency": 100}, 4 * 256 * 512),
        ({"context_length": 100}, 4 * 100 * 512),
        ({"context_length": 10**6}, 4 * 256 * 512),
        ({"kv_bits": 8}, 4 * 256 * 128 * (1 + 8 / 64)),
        ({"kv_bits": 4}, 4 * 256 * 128 * (1 / 2 + 8 / 64)),
        ({"kv_cache_bytes": 7}, 7),
    ],
)
def test_memory_for_texts_is_what_the_entry_says_of_them(model: Path, said: dict[str, int], reserved: float) -> None:
    assert reserved_kv_bytes(discover(model), ModelEntry(id="m", kind="chat", **said)) == reserved  # type: ignore[arg-type]  # kv_bits


def test_long_contexts_are_not_expected_unless_they_are_said(tmp_path: Path) -> None:
    discovered = discover(model_folder(tmp_path, CHAT | {"max_position_embeddings": 10**6}))

    assert reserved_kv_bytes(discovered, ENTRY) == 4 * 8192 * 512
    assert reserved_kv_bytes(discovered, ModelEntry(id="m", kind="chat", context_length=10**6)) == 4 * 10**6 * 512


def test_draft_model_and_adapter_count_too(model: Path, tmp_path: Path) -> None:
    draft = model_folder(tmp_path / "draft", a=np.zeros(MIB // 2, np.float32))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapters.safetensors").write_bytes(bytes(MIB))
    entry = ModelEntry(id="m", kind="chat", draft_model=str(draft), adapter=str(adapter))

    more = estimated_bytes(discover(model), entry) - estimated_bytes(discover(model), ENTRY)

    assert more == int(1.1 * (4 + 2 + 1) * MIB) - int(1.1 * 4 * MIB) + 256 * 512


def test_what_the_entry_says_of_its_memory_takes_the_place_of_the_estimate(model: Path) -> None:
    assert estimated_bytes(discover(model), ModelEntry(id="m", kind="chat", memory_bytes=5)) == 5


def test_other_kinds_need_no_room_for_texts(tmp_path: Path) -> None:
    discovered = discover(model_folder(tmp_path, CHAT | {"model_type": "bert"}, a=np.zeros(MIB, np.float32)))

    assert estimated_bytes(discovered, ModelEntry(id="m", kind="embeddings")) == int(1.1 * 4 * MIB) + PROCESS


def test_reading_the_facts_imports_no_mlx() -> None:
    code = "import sys, actors.model_shelf; print({'mlx', 'mlx_lm', 'transformers'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"
