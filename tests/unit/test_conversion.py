"""When a model is quantised, and how the cache of conversions is filled."""

import threading
from pathlib import Path

import pytest

from actors.conversion import ConversionError, conversions_of, made_once, quantisation_for, quantised
from bus.messages.catalogue import ModelEntry
from bus.messages.models import ModelKind
from tests.support.tiny_bert import write_json


@pytest.mark.parametrize(
    ("gigabytes", "chosen"), [(8, "4bit"), (16, "4bit"), (31.9, "4bit"), (32, "8bit"), (48, "8bit"), (64, "none")]
)
def test_auto_goes_by_the_memory_of_the_machine(gigabytes: float, chosen: str) -> None:
    assert quantisation_for(int(gigabytes * 10**9)) == chosen


@pytest.mark.parametrize(("gigabytes", "bits"), [(16, 4.5), (32, 8.5), (64, 16)])
def test_auto_leaves_half_of_the_memory_to_others(gigabytes: int, bits: float) -> None:
    # Ops-MM-embedding-v1-7B without its head; what it sees with stays as it is. A scale and a bias are half a bit more.
    texts, sight = 7.07e9, 0.675e9

    assert quantisation_for(gigabytes * 10**9) == {4.5: "4bit", 8.5: "8bit", 16: "none"}[bits]
    assert (texts * bits + sight * 16) / 8 < gigabytes * 10**9 / 2


@pytest.mark.parametrize(
    "config",
    [
        {"quantization": {"bits": 4, "group_size": 64}},
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
        {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
    ],
)
def test_what_is_quantised_already_stays_as_it_is(config: dict[str, object], tmp_path: Path) -> None:
    write_json(tmp_path / "model" / "config.json", {"model_type": "llama", **config})

    assert quantised(entry("chat"), tmp_path / "model", tmp_path / "cache") == tmp_path / "model"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ('{"model_type": "whisper"}', "it is for transcription, and only models for chat, embeddings, rerank can be"),
        ("{", "its config.json cannot be read"),
    ],
)
def test_what_cannot_be_quantised_is_refused_and_leaves_nothing(config: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)

    with pytest.raises(ConversionError, match=told):
        quantised(entry("transcription"), tmp_path, tmp_path / "cache")

    assert not (tmp_path / "cache").exists()


def test_a_folder_is_made_once_however_many_ask_for_it_at_a_time(tmp_path: Path) -> None:
    begun, go_on, made = threading.Event(), threading.Event(), []

    def write(draft: Path) -> None:
        draft.mkdir()
        begun.set()
        assert go_on.wait(20)
        made.append(draft)

    asking = [
        threading.Thread(target=made_once, args=(tmp_path, tmp_path / "cache" / "x", write), daemon=True)
        for _ in range(4)
    ]
    for thread in asking:
        thread.start()
    assert begun.wait(20)
    assert not (tmp_path / "cache" / "x").exists()
    go_on.set()
    for thread in asking:
        thread.join(20)

    assert len(made) == 1
    assert [path.name for path in (tmp_path / "cache").glob("x*")] == ["x"]


def test_conversions_are_found_by_what_they_were_made_from(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    repository = tmp_path / "models--a--b"
    first = made_once(repository / "snapshots" / "1", cache / "first", Path.mkdir)
    second = made_once(first, cache / "second", Path.mkdir)
    made_once(tmp_path / "models--a--b2", cache / "other", Path.mkdir)

    assert conversions_of(repository, cache) == [first, second]


def entry(kind: ModelKind) -> ModelEntry:
    return ModelEntry(id="m", kind=kind, quantisation="4bit")
