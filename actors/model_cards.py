"""What is told of a model: from the catalogue, its files, the heartbeats of its instances, and its slot."""

import time
from typing import assert_never

from msgspec import structs

from actors.model_facts import Discovered
from actors.slot_steps import Slot
from bus.messages.catalogue import HEAVY, ModelEntry
from bus.messages.models import ModelCard, ModelState
from bus.messages.presence import Heartbeat

# Seconds after which a calendar may have no date: a model that stays for so long stays.
_FOR_EVER = 1e10


def card_of(entry: ModelEntry, beats: tuple[Heartbeat, ...], created: int) -> ModelCard:
    """Return the card of a model by what its instances say."""
    mine = [beat for beat in beats if beat.model == entry.id]
    best = next((beat for beat in mine if beat.state == "ready"), mine[0] if mine else None)
    detail = best.detail if best else {}
    return ModelCard(
        id=entry.id,
        kind=entry.kind,
        tier=entry.tier,
        state=_state(best, "unloaded" if entry.tier == HEAVY else "restarting"),
        created=created,
        aliases=entry.aliases,
        family=detail.get("family"),
        context_length=_number(detail.get("context_length")) or entry.context_length,
        dimensions=_number(detail.get("dimensions")),
        size_bytes=_number(detail.get("size_bytes")),
        memory_bytes=max(best.rss_bytes, best.mlx_bytes) if best and best.state != "failed" else None,
        dtype=detail.get("dtype"),
        profile=detail.get("profile"),
        tags=entry.tags,
        description=entry.description,
        pinned=entry.pinned,
        priority=entry.priority,
        ttl=entry.ttl,
        leases=best.working if best else 0,
        instance=best.instance if best else None,
        path=entry.path or entry.id,
        blas=detail.get("blas"),
        load_seconds=float(detail["load_seconds"]) if "load_seconds" in detail else None,
        matryoshka_dimensions=entry.matryoshka_dimensions,
        is_matryoshka=bool(entry.matryoshka_dimensions),
    )


def with_files(card: ModelCard, found: Discovered, need_bytes: int) -> ModelCard:
    """Return the card with what the model's files tell, where its instances have not told it."""
    return structs.replace(
        card,
        family=card.family or found.family,
        context_length=card.context_length or found.context_length,
        dimensions=card.dimensions or (found.dimensions if found.kind == "embeddings" else None),
        parameters=found.parameters,
        quantisation=found.quantisation,
        size_bytes=card.size_bytes or found.size_bytes,
        estimated_bytes=need_bytes,
        dtype=card.dtype or found.dtype,
        modalities=found.modalities,
        capabilities=found.capabilities,
        matryoshka_dimensions=card.matryoshka_dimensions or found.matryoshka_dimensions or (),
        is_matryoshka=card.is_matryoshka or found.matryoshka_dimensions is not None,
    )


def with_slot(card: ModelCard, slot: Slot, ttl: float) -> ModelCard:
    """Return the card with what the scheduler knows better than the last heartbeat."""
    states: dict[str, ModelState] = {"loading": "loading", "ready": "ready", "draining": "draining"}
    keep = ttl if slot.keep is None else slot.keep
    is_kept = card.pinned or keep < 0 or keep >= _FOR_EVER or (keep == 0 and slot.keep is None)
    is_idle = slot.state == "ready" and not slot.is_busy
    return structs.replace(
        card,
        state="stuck" if card.state == "stuck" else states.get(slot.state, card.state),
        memory_bytes=slot.measured_bytes or card.memory_bytes,
        leases=len(slot.leases) + slot.foreign,
        expires_at=time.time() + slot.used_at + keep - time.monotonic() if is_idle and not is_kept else None,
        instance=slot.name,
    )


def _state(beat: Heartbeat | None, without: ModelState) -> ModelState:
    if beat is None:
        return without
    match beat.state:
        case "ready" | "stuck" | "draining" | "failed":
            return beat.state
        case "starting":
            return "loading"
        case "down" | "empty":
            return without
        case _:
            assert_never(beat.state)


def _number(text: str | None) -> int | None:
    return int(text) if text else None
