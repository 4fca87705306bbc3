"""Settings: defaults, then the file, then the environment, and errors that help."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from bus.settings import SettingsError, read_file, settings


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is set here."""

    port: int = 1
    quick: bool = False
    folder: Path = Path("none")
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    mood: Literal["good", "bad"] = "good"
    note: str | None = None


NAMES = {"PORT": "port", "QUICK": "quick", "FOLDER": "folder", "SPEED": "speed", "MOOD": "mood", "NOTE": "note"}


def wanted(table: object = None, **environment: str) -> Wanted:
    return settings(Wanted, table, environment, NAMES, where="fusion.yaml: bus")  # type: ignore[arg-type]


def test_without_anything_the_defaults_hold() -> None:
    assert wanted() == Wanted()


def test_file_goes_over_defaults_and_environment_over_file() -> None:
    assert wanted({"port": 2, "mood": "bad"}, PORT="3") == Wanted(port=3, mood="bad")


def test_empty_variable_counts_as_not_set() -> None:
    assert wanted({"port": 2}, PORT="", NOTE="") == Wanted(port=2)


def test_variables_are_read_as_what_their_field_is() -> None:
    found = wanted(PORT="5", QUICK="true", FOLDER="~/x", SPEED="0.5", NOTE="5")

    assert found == Wanted(port=5, quick=True, folder=Path("~/x"), speed=0.5, note="5")


def test_path_in_the_file_is_a_path() -> None:
    assert wanted({"folder": "/x"}).folder == Path("/x")


@pytest.mark.parametrize(
    ("table", "environment", "message"),
    [
        ({"prot": 1}, {}, "fusion.yaml: bus: unknown key 'prot'. Did you mean 'port'?"),
        ({"zzz": 1}, {}, "fusion.yaml: bus: unknown key 'zzz'. Did you mean"),
        ({True: 1}, {}, "fusion.yaml: bus: unknown key 'True'."),
        ({5: 1}, {}, "fusion.yaml: bus: unknown key '5'."),
        ({"port": "x"}, {}, "fusion.yaml: bus.port: Expected `int`, got `str` (got 'x')."),
        ({"port": "3"}, {}, "fusion.yaml: bus.port: Expected `int`, got `str` (got '3')."),
        ({"speed": 0}, {}, "fusion.yaml: bus.speed: Expected `float` > 0.0 (got 0)."),
        ({"mood": "odd"}, {}, "fusion.yaml: bus.mood: Invalid enum value 'odd' (got 'odd')."),
        ({"folder": 5}, {}, "fusion.yaml: bus.folder: "),
        ({}, {"PORT": "many"}, "The variable PORT: Expected `int`, got `str` (got 'many')."),
        ({}, {"SPEED": "-1"}, "The variable SPEED: Expected `float` > 0.0 (got '-1')."),
        (5, {}, "fusion.yaml: bus must hold a mapping, not int."),
        (["port"], {}, "fusion.yaml: bus must hold a mapping, not list."),
    ],
)
def test_setting_that_cannot_be_used_is_named_with_its_place(
    table: object, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        wanted(table, **environment)

    assert str(error.value).startswith(message)


def test_setting_without_a_default_that_is_missing_is_named() -> None:
    class Strict(msgspec.Struct, frozen=True, kw_only=True):
        port: int

    with pytest.raises(SettingsError, match="Missing required argument 'port'"):
        settings(Strict, {}, {}, {}, where="x")


def test_tables_of_the_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "fusion.yaml"
    path.write_text("bus: {url: nats://x}\nmodels: []\n")

    assert read_file(path) == {"bus": {"url": "nats://x"}, "models": []}


def test_no_file_and_an_empty_file_have_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "fusion.yaml"
    path.write_text("# nothing\n")

    assert read_file(None) == read_file(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"buss: {}", "unknown table 'buss'. Did you mean 'bus'?"),
        (b"- bus", "must hold a mapping, not list"),
        (b"bus: [", "is not valid YAML"),
        (b"bus: \xff", "is not valid YAML"),
        (b"5: {}", "unknown table '5'"),
    ],
)
def test_file_that_cannot_be_used_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "fusion.yaml"
    path.write_bytes(content)

    with pytest.raises(SettingsError) as error:
        read_file(path)

    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.yaml cannot be read: No such file"):
        read_file(tmp_path / "nowhere.yaml")
