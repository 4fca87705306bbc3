"""Filters on documents, in a part of MongoDB's query language, as SQL with bound parameters (docs/rag.md).

What stands at a field of the metadata is brought into lists by type: a text is compared with texts only, and a number
with numbers; of a list, any element counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from bus.errors import RefusedError
from bus.messages.rag import Filter
from eventlog.history_rows import naive

_DEEPEST = 8
_MOST_CONDITIONS = 100
_MOST_VALUES = 1000
_LONGEST_NAME = 500

_BOUNDS = {"$gt": ("list_max", ">"), "$gte": ("list_max", ">="), "$lt": ("list_min", "<"), "$lte": ("list_min", "<=")}
_OPERATORS = ("$eq", "$ne", *_BOUNDS, "$in", "$nin", "$exists", "$not")
_LOGICAL = ("$and", "$or", "$not")
# Every document has these, beside its metadata.
_COLUMNS = ("filename", "document_id", "stored_at")

# `found_at` is what stands at a JSON pointer (RFC 6901): the elements of a list, or the one value; nothing if it is
# not there.
MACROS = """
CREATE OR REPLACE MACRO found_at(metadata, pointer) AS CASE json_type(metadata, pointer)
    WHEN 'ARRAY' THEN json_extract(json_extract(metadata, pointer), '$[*]')
    ELSE list_filter([json_extract(metadata, pointer)], lambda value: value IS NOT NULL) END;
CREATE OR REPLACE MACRO texts_at(metadata, pointer) AS list_transform(
    list_filter(found_at(metadata, pointer), lambda value: json_type(value) = 'VARCHAR'),
    lambda value: json_extract_string(value, '$'));
CREATE OR REPLACE MACRO numbers_at(metadata, pointer) AS list_transform(
    list_filter(found_at(metadata, pointer), lambda value: json_type(value) IN ('BIGINT', 'UBIGINT', 'DOUBLE')),
    lambda value: value::DOUBLE);
CREATE OR REPLACE MACRO others_at(metadata, pointer) AS list_transform(
    list_filter(found_at(metadata, pointer), lambda value: json_type(value) IN ('BOOLEAN', 'NULL')),
    lambda value: value::VARCHAR);
"""


class Where(Struct, frozen=True):
    """A condition on the rows of `documents`, never NULL, and the values that are bound to it."""

    sql: str
    values: tuple[object, ...] = ()


def where(filter: Filter) -> Where | None:  # noqa: A002 - the field's name
    """Return what `filter` means; None if it lets all through. Raises `RefusedError`, which names the place in it."""
    return _Reader().all_of(filter, "filter", 0) if filter else None


class _Reader:
    """Reads one filter, and counts its conditions."""

    def __init__(self) -> None:
        self._conditions = 0

    def all_of(self, conditions: object, place: str, depth: int) -> Where:
        """Return the conditions on several fields, all of which must be true."""
        if depth > _DEEPEST:
            raise _refused(place, f"is more than {_DEEPEST} deep")
        return _joined(
            "AND", [self._one(name, each, place, depth) for name, each in _object(conditions, place).items()]
        )

    def _one(self, name: str, value: object, place: str, depth: int) -> Where:
        here = f"{place}.{name}"
        if name == "$not":
            return _negated(self.all_of(value, here, depth + 1))
        if name in _LOGICAL:
            parts = _list(value, here)
            return _joined(
                name[1:].upper(), [self.all_of(part, f"{here}[{i}]", depth + 1) for i, part in enumerate(parts)]
            )
        if name.startswith("$"):
            raise _refused(here, f"is unknown: here stands the name of a field, or one of {', '.join(_LOGICAL)}")
        if not all(name.split(".")) or len(name) > _LONGEST_NAME:
            raise _refused(here, "is no name of a field, or of a key in it by dots")
        return self._on_field(name, value, here, depth)

    def _on_field(self, name: str, value: object, place: str, depth: int) -> Where:
        """Return what a field has to be like: equal to a value, or what several operators say."""
        operators = value if isinstance(value, dict) else {"$eq": value}
        if depth > _DEEPEST:
            raise _refused(place, f"is more than {_DEEPEST} deep")
        parts = []
        for operator, operand in _object(operators, place).items():
            here = f"{place}.{operator}" if isinstance(value, dict) else place
            if operator not in _OPERATORS:
                raise _refused(here, f"is unknown; the operators are {', '.join(_OPERATORS)}")
            parts.append(self._compared(name, operator, operand, here, depth))
        return _joined("AND", parts)

    def _compared(self, name: str, operator: str, operand: object, place: str, depth: int) -> Where:
        self._conditions += 1
        if self._conditions > _MOST_CONDITIONS:
            raise _refused(place, f"is one of more than {_MOST_CONDITIONS} conditions")
        match operator:
            case "$not":
                return _negated(self._on_field(name, _object(operand, place), place, depth + 1))
            case "$ne" | "$nin":
                return _negated(self._compared(name, {"$ne": "$eq", "$nin": "$in"}[operator], operand, place, depth))
            case "$exists":
                return _exists(name, operand, place)
            case "$in":
                values = _list(operand, place)
                return _among(name, [(each, f"{place}[{i}]") for i, each in enumerate(values)])
            case "$eq":
                return _among(name, [(operand, place)])
            case _:
                return _bounded(name, operator, operand, place)


def _among(name: str, operands: Sequence[tuple[object, str]]) -> Where:
    """Return that a field is one of `operands`, each of which comes with its place."""
    if name in _COLUMNS:
        return Where(f"list_contains(?, {name})", ([_own(name, operand, place) for operand, place in operands],))
    texts, numbers, others = [], [], []
    for operand, place in operands:
        match operand:
            case str():
                texts.append(operand)
            case None | bool():
                others.append({None: "null", True: "true", False: "false"}[operand])
            case int() | float():
                numbers.append(_double(operand, place))
            case _:
                raise _refused(
                    place, "takes a text, a number, true, false or null; a key of an object is named by dots"
                )
    pointer = _pointer(name)
    parts = [
        Where(f"coalesce(list_has_any({kind}_at(metadata, ?), ?), FALSE)", (pointer, values))
        for kind, values in (("texts", texts), ("numbers", numbers), ("others", others))
        if values
    ]
    if "null" in others:
        parts.append(Where("json_type(metadata, ?) IS NULL", (pointer,)))
    return _joined("OR", parts)


def _bounded(name: str, operator: str, operand: object, place: str) -> Where:
    """Return that a field is above or below a value."""
    function, sign = _BOUNDS[operator]
    if name in _COLUMNS:
        return Where(f"{name} {sign} ?", (_own(name, operand, place),))
    if isinstance(operand, bool) or not isinstance(operand, str | int | float):
        raise _refused(place, "takes a text or a number")
    kind, value = ("texts", operand) if isinstance(operand, str) else ("numbers", _double(operand, place))
    return Where(f"coalesce({function}({kind}_at(metadata, ?)) {sign} ?, FALSE)", (_pointer(name), value))


def _exists(name: str, operand: object, place: str) -> Where:
    if not isinstance(operand, bool):
        raise _refused(place, "takes true or false")
    if name in _COLUMNS:
        return Where(str(operand).upper())
    return Where(f"json_type(metadata, ?) IS {'NOT ' if operand else ''}NULL", (_pointer(name),))


def _own(name: str, operand: object, place: str) -> object:
    """Return what a column is compared with."""
    if not isinstance(operand, str):
        raise _refused(place, "takes a text")
    if name != "stored_at":
        return operand
    try:
        return naive(datetime.fromisoformat(operand))
    except ValueError as error:
        raise _refused(place, "takes a time such as 2026-11-22T05:00:00Z") from error


def _double(operand: float, place: str) -> float:
    try:
        return float(operand)
    except OverflowError as error:
        raise _refused(place, "is too large a number") from error


def _pointer(name: str) -> str:
    return "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in name.split("."))


def _object(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise _refused(place, "takes an object that is not empty")
    return value


def _list(value: object, place: str) -> Sequence[object]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST_VALUES:
        raise _refused(place, f"takes a list of 1 to {_MOST_VALUES:,}")
    return value


def _joined(word: str, parts: Iterable[Where]) -> Where:
    parts = list(parts)
    sql = f" {word} ".join(part.sql for part in parts)
    return Where(f"({sql})", tuple(value for part in parts for value in part.values))


def _negated(part: Where) -> Where:
    return Where(f"NOT {part.sql}", part.values)


def _refused(place: str, why: str) -> RefusedError:
    return RefusedError("invalid_request", f"'{place[:300]}' {why}.", param="filter")
