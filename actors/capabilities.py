"""What each kind of model is made of: its engine, its actor and the subjects it answers on."""

from pathlib import Path
from typing import Any, assert_never
from urllib.parse import quote

from msgspec import Struct

from actors.catalogue import ModelFilesError
from actors.chat import ChatActor
from actors.config import ActorsConfig
from actors.embeddings import EmbeddingsActor
from actors.engines.engine import ChatEngine, EmbeddingsEngine, RerankEngine
from actors.engines.pictures_folder import reads_pictures
from actors.media import Media, MediaLimits
from actors.model_facts import discover, reserved_kv_bytes
from actors.model_revision import revision_of
from actors.rerank import RerankActor
from bus.blobs import Blobs
from bus.messages.catalogue import HEAVY, ModelEntry
from bus.messages.models import ModelKind
from bus.serve import Receive
from bus.subjects import CHAT, COMPLETE, DETOKENIZE, EMBED, RERANK, TOKENIZE, Subject

# What is asked of each kind of model; of those that are not here, nothing yet.
SUBJECTS: dict[ModelKind, tuple[Subject[Any, Any], ...]] = {
    "chat": (CHAT, COMPLETE, TOKENIZE, DETOKENIZE),
    "embeddings": (EMBED,),
    "rerank": (RERANK,),
}


class Capability(Struct, frozen=True):
    """One kind of model, with its engine built but not loaded.

    `subjects` are answered by the actor through its mailbox, `beside` at once. `revision` tells its files from any
    others. `media` has children to be ended with the engine.
    """

    engine: ChatEngine[Any] | EmbeddingsEngine[Any] | RerankEngine[Any]
    actor: ChatActor[Any] | EmbeddingsActor[Any] | RerankActor[Any]
    subjects: tuple[Subject[Any, Any], ...]
    beside: tuple[tuple[Subject[Any, Any], Receive[Any, Any]], ...] = ()
    revision: str | None = None
    media: Media | None = None


class ModelFiles(Struct, frozen=True, kw_only=True):
    """The folders of one model: its own files, those of its draft model and adapter, and where it may keep things.

    In `media` images and videos are looked for.
    """

    model: Path
    draft: Path | None
    adapter: Path | None = None
    state: Path
    media: tuple[Blobs, ...] = ()


def capability(entry: ModelEntry, files: ModelFiles, config: ActorsConfig) -> Capability:
    """Return what serves `entry` from its `files`.

    Imports the engine's libraries, so call it in the model's own process. Reads some of the files, so call it in a
    thread.
    """
    revision = revision_of(files.model, files.adapter)
    match entry.kind:
        case "chat":
            from actors.engines.text import TextEngine  # noqa: PLC0415 - only the one that is needed
            from actors.engines.text_model import TextLimits  # noqa: PLC0415 - the same

            limits = TextLimits(
                max_batch=entry.concurrency or config.default_concurrency,
                context_length=entry.context_length,
                warmup=config.warmup,
                draft=files.draft,
                adapter=files.adapter,
                trust_code=entry.trust_code,
                prefix_bytes=_first_said(entry.prefix_cache_bytes, config.prefix_cache_bytes),
                prefix_folder=files.state / "prefixes" / quote(entry.id, safe="")
                if config.prefix_cache_on_disk
                else None,
                kv_bytes=_kv_bytes(entry, files, config),
                kv_bits=entry.kv_bits,
            )
            return chat_capability(TextEngine(files.model, limits), revision)
        case "embeddings":
            from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits  # noqa: PLC0415 - the same

            embeddings_limits = EmbeddingLimits(
                warmup=config.warmup,
                cache_bytes=config.embedding_cache_bytes,
                matryoshka_dimensions=entry.matryoshka_dimensions,
            )
            media = _media(files, config)
            if reads_pictures(files.model):
                from actors.engines.pictures import PictureEngine  # noqa: PLC0415 - the same

                return embeddings_capability(PictureEngine(files.model, embeddings_limits), media, revision)
            return embeddings_capability(EmbeddingEngine(files.model, embeddings_limits), media, revision)
        case "rerank":
            from actors.engines.rerank import RerankerEngine, RerankLimits  # noqa: PLC0415 - the same

            return rerank_capability(RerankerEngine(files.model, RerankLimits(warmup=config.warmup)), revision)
        case "vision" | "transcription" | "speech" | "image":
            raise ModelFilesError(f"The model {entry.id} is for {entry.kind}, for which this version has no engine.")
        case _:
            assert_never(entry.kind)


def chat_capability(engine: ChatEngine[Any], revision: str | None = None) -> Capability:
    """Return chat on `engine`."""
    actor = ChatActor(engine)
    beside = ((TOKENIZE, actor.tokenize), (DETOKENIZE, actor.detokenize))
    return Capability(engine, actor, (CHAT, COMPLETE), beside, revision)


def embeddings_capability(engine: EmbeddingsEngine[Any], media: Media, revision: str | None = None) -> Capability:
    """Return embeddings on `engine`, of pictures that `media` decodes."""
    return Capability(engine, EmbeddingsActor(engine, media), (EMBED,), revision=revision, media=media)


def _media(files: ModelFiles, config: ActorsConfig) -> Media:
    limits = MediaLimits(
        most_bytes=config.max_media_bytes,
        most_pixels=config.max_image_pixels,
        seconds=config.media_seconds,
    )
    return Media(files.media, limits)


def rerank_capability(engine: RerankEngine[Any], revision: str | None = None) -> Capability:
    """Return reranking on `engine`."""
    return Capability(engine, RerankActor(engine), (RERANK,), revision=revision)


def _kv_bytes(entry: ModelEntry, files: ModelFiles, config: ActorsConfig) -> int | None:
    """Return what texts may take: what is said, or for a heavy model what it was charged with, or what is free."""
    said = _first_said(entry.kv_cache_bytes, config.kv_cache_bytes)
    if said is None and entry.tier == HEAVY:
        return reserved_kv_bytes(discover(files.model), entry) or None
    return said


def _first_said(own: int | None, general: int | None) -> int | None:
    # 0 is said, None is not.
    return general if own is None else own
