"""The registry: what is configured, and what was added by an order."""

from pathlib import Path

import pytest

from actors.registry import Registry
from bus.messages.catalogue import ModelEntry
from bus.messages.models import CatalogueReloaded
from bus.settings import SettingsError


def entry(model: str, **fields: object) -> ModelEntry:
    return ModelEntry(id=model, kind="chat", tier=2, **fields)  # type: ignore[arg-type]


def test_an_id_stands_before_an_alias(tmp_path: Path) -> None:
    registry = Registry(lambda: (entry("a", aliases=("b", "c")), entry("b")), tmp_path / "models.json")

    found = [registry.find(name) for name in ("a", "b", "c", "d")]

    assert [each and each.id for each in found] == ["a", "b", "a", None]


def test_what_was_added_is_there_after_a_restart_until_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    first = Registry(lambda: (entry("a"),), path)
    first.add(entry("x", ttl=5.0))
    first.add(entry("x", ttl=7.0))

    second = Registry(lambda: (entry("a"),), path)
    added = second.find("x")
    second.remove("x")
    third = Registry(lambda: (entry("a"),), path)

    assert added == entry("x", ttl=7.0)
    assert second.is_added("a") is False
    assert [each.id for each in third.entries] == ["a"]


def test_what_is_configured_stands_before_what_was_added(tmp_path: Path) -> None:
    registry = Registry(lambda: (entry("a", ttl=1.0),), tmp_path / "models.json")

    registry.add(entry("a", ttl=2.0))

    assert registry.entries == (entry("a", ttl=1.0),)


def test_an_unreadable_file_of_additions_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text("[{")

    registry = Registry(lambda: (entry("a"),), path)

    assert [each.id for each in registry.entries] == ["a"]


def test_reading_again_tells_what_has_changed(tmp_path: Path) -> None:
    configured = (entry("a"), entry("b"), entry("c"))
    registry = Registry(lambda: configured, tmp_path / "models.json")
    registry.add(entry("x"))

    configured = (entry("b", pinned=True), entry("c"), entry("d"))
    changes = registry.reload()

    assert changes == CatalogueReloaded(added=("d",), changed=("b",), removed=("a",))
    assert [each.id for each in registry.entries] == ["b", "c", "d", "x"]


def test_a_configuration_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    broken = False

    def read() -> tuple[ModelEntry, ...]:
        if broken:
            raise SettingsError("no")
        return (entry("a"),)

    registry = Registry(read, tmp_path / "models.json")
    broken = True

    with pytest.raises(SettingsError):
        registry.reload()

    assert [each.id for each in registry.entries] == ["a"]
