"""What is told of a model comes from its entry in the catalogue, and else from its files."""

from pathlib import Path
from typing import Any

import pytest

from actors.model_cards import card_of, with_files
from actors.model_facts import discover
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
