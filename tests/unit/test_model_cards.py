"""What is told of a model comes from its entry in the catalogue, and else from its files."""

from pathlib import Path
from typing import Any

import pytest

from actors.model_cards import card_of, with_files, with_slot
from actors.model_facts import discover
from actors.slot_steps import Slot
from bus.messages.catalogue import ModelEntry
from tests.support.model_folders import model_folder

BERT = {"model_type": "bert", "vocab_size": 9, "hidden_size": 64, "max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("declared", "configured", "told"),
    [
        ({}, (), (False, ())),
        ({"is_matryoshka": True}, (), (True, ())),
        ({"matryoshka_dimensions": [32, 16]}, (), (True, (32, 16))),
        ({"matryoshka_dimensions": [32, 16]}, (8,), (True, (8,))),
    ],
)
def test_card_tells_what_vectors_may_be_cut_to(
    tmp_path: Path, declared: dict[str, Any], configured: tuple[int, ...], told: tuple[bool, tuple[int, ...]]
) -> None:
    folder = model_folder(tmp_path, BERT | declared)
    entry = ModelEntry(id="m", kind="embeddings", matryoshka_dimensions=configured)

    card = with_files(card_of(entry, (), created=1), discover(folder), need_bytes=1)

    assert (card.is_matryoshka, card.matryoshka_dimensions) == told
    assert card.context_length == 512


@pytest.mark.parametrize(("keep", "is_told"), [(60.0, True), (1e9, True), (1e30, False), (-1.0, False)])
def test_card_tells_until_when_a_model_stays_unless_no_calendar_has_that(keep: float, *, is_told: bool) -> None:
    card = card_of(ModelEntry(id="m", kind="chat", tier=2), (), created=1)

    told = with_slot(card, Slot(name="slot-1", state="ready", keep=keep), ttl=5.0)

    assert (told.expires_at is not None) == is_told
