"""Reads configuration into the structs that the packages own: defaults, then the file, then the environment.

The file is YAML with one table per package. A key that no struct has is an error that names the nearest one.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(Exception):
    """A setting that cannot be used; the message names it, where it stands and what is allowed."""


TABLES = frozenset(("bus", "nats", "actors", "rag", "edge", "models"))


def read_file(path: Path | None) -> dict[str, Any]:
    """Return the tables of the file; an empty dict without a file. Raises `SettingsError`."""
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise SettingsError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold a mapping, not {type(content).__name__}.")
    for key in content:
        _known(str(key), TABLES, f"{path}: unknown table")
    return content


def settings(
    kind: type[T],
    table: Mapping[str, Any] | None,
    environment: Mapping[str, str],
    names: Mapping[str, str],
    *,
    where: str,
) -> T:
    """Return a `kind` from its `table` of the file and from the variables that `names` maps to its fields.

    An empty variable counts as not set. Raises `SettingsError`, which tells `where` the table stands.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if table is not None and not isinstance(table, Mapping):
        raise SettingsError(f"{where} must hold a mapping, not {type(table).__name__}.")
    values = dict(table or {})
    for key in values:
        _known(str(key), frozenset(fields), f"{where}: unknown key")
    origins = {}
    for variable, name in names.items():
        if environment.get(variable):
            values[name] = environment[variable]
            origins[name] = variable
    checked: dict[str, Any] = {}
    for name, value in values.items():
        try:
            checked[name] = msgspec.convert(value, fields[name].type, strict=name not in origins, dec_hook=_from_text)
        except msgspec.ValidationError as error:
            place = f"The variable {origins[name]}" if name in origins else f"{where}.{name}"
            raise SettingsError(f"{place}: {error} (got {value!r}).") from error
    try:
        return kind(**checked)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {error}.") from error


def _from_text(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def _known(key: str, known: frozenset[str], complaint: str) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.0)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise SettingsError(f"{complaint} '{key}'.{hint}")
