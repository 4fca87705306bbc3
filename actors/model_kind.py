"""Tells from the files of a model what it is for."""

from pathlib import Path
from typing import assert_never

from actors.conversion import folder_name
from actors.engines.pictures_folder import FAMILIES, words_of
from actors.engines.rerank_folder import labels_of
from actors.model_config import ModelConfig
from bus.messages.models import ModelKind

# By model_type. Other families are for chat, unless their files say more.
_TRANSCRIPTION = ("whisper", "parakeet", "canary", "moonshine", "sensevoice", "voxtral", "wav2vec2", "qwen3_asr")
_SPEECH = ("kokoro", "soprano", "bark", "csm", "dia", "outetts", "spark", "vibevoice", "qwen3_tts", "chatterbox")
_TEXT_ENCODERS = ("bert", "roberta", "xlm_roberta", "distilbert", "mpnet", "nomic_bert", "modernbert", "llama_bidirec")
_IMAGE_ENCODERS = ("clip", "siglip", "siglip2", "colqwen2_5", "colidefics3")
# Their embedding models have the files of the chat models that they were made from, and another name.
_EMBEDDING_WORDS = ("embed", "embedding", "embeddings", "gme")
_SENTENCE_FILES = ("modules.json", "1_Pooling", "sentence_bert_config.json", "config_sentence_transformers.json")


def kind_of(folder: Path, config: ModelConfig) -> ModelKind | None:
    """Return what the model in `folder` is for; None if it is for something else than Fusion knows.

    A generative reranker is one by its name, as is a Qwen2-VL or Qwen3-VL for embeddings. Another embedding model
    without the files of sentence-transformers looks like chat.
    """
    family = config.text("model_type").replace("-", "_")
    is_classifier = next(iter(config.texts("architectures")), "").endswith("ForSequenceClassification")
    is_sentences = any((folder / name).exists() for name in _SENTENCE_FILES) or (not family and "dim" in config)
    is_named = family in FAMILIES and any(word in _EMBEDDING_WORDS for word in words_of(_names(folder)))
    is_vision = "vision_config" in config or (folder / "preprocessor_config.json").is_file()
    rules: tuple[tuple[bool, ModelKind | None], ...] = (
        (is_image(folder), "image"),
        # As OpenAI wrote whisper, and Kokoro's makers Kokoro, it names no family.
        (family in _TRANSCRIPTION or "n_mels" in config, "transcription"),
        (family in _SPEECH or "istftnet" in config, "speech"),
        (is_classifier, "rerank" if labels_of(config) == 1 else None),
        (bool(family) and "rerank" in _names(folder), "rerank"),
        (family in _TEXT_ENCODERS + _IMAGE_ENCODERS or is_sentences or is_named, "embeddings"),
        (bool(family) and is_vision, "vision"),
        (bool(family), "chat"),
    )
    return next((kind for holds, kind in rules if holds), None)


def is_image(folder: Path) -> bool:
    """Return whether the folder has the parts of an image model, as diffusers and mflux lay them out."""
    return (folder / "model_index.json").is_file() or all((folder / part).is_dir() for part in ("transformer", "vae"))


def modalities_of(kind: ModelKind, config: ModelConfig) -> tuple[str, ...]:
    """Return what the model takes and gives: a list of text, image, video and audio."""
    match kind:
        case "transcription" | "speech":
            return ("text", "audio")
        case "image":
            return ("text", "image")
        case "chat" | "rerank":
            return ("text",)
        case "vision" | "embeddings":
            is_shown_frames = kind == "embeddings" and config.text("model_type") in FAMILIES
            senses = {
                "image": kind == "vision" or "vision_config" in config,
                # As embedding models they are shown the frames one by one.
                "video": is_shown_frames or config.number("video_token_id", "video_token_index") is not None,
                "audio": "audio_config" in config,
            }
            return ("text", *(name for name, has in senses.items() if has))
        case _:
            assert_never(kind)


def _names(folder: Path) -> str:
    """Return what the folder is called, and what the folder or repository is that a link of that name leads to."""
    return f"{folder.name} {folder_name(folder)}".lower()
