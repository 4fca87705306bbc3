"""Filters on documents, against what Python makes of them."""

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from actors.rag.filters import where
from actors.rag.store import Store
from actors.rag.store_query import document_ids
from bus.errors import RefusedError
from tests.support import make, rag
from tests.support.docs import page, section, unnamed

names = some.sampled_from(["a", "b", "ü~/", "0", "1"])
numbers = some.integers(-3, 3) | some.sampled_from([0.5, -1.0, 2.0, 1e300, 2**60])
texts = some.sampled_from(["", "a", "b", "aa", "1", "true", "null", "Ü\x00", '"', "'; DROP TABLE documents; --"])
scalars = some.none() | some.booleans() | numbers | texts
values = some.recursive(
    scalars, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(names, inner, max_size=3), max_leaves=6
)
metadata = some.dictionaries(names, values, max_size=4)
paths = some.lists(names, min_size=1, max_size=3).map(".".join)
comparisons = some.one_of(
    some.tuples(some.sampled_from(["$eq", "$ne"]), scalars),
    some.tuples(some.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers | texts),
    some.tuples(some.sampled_from(["$in", "$nin"]), some.lists(scalars, min_size=1, max_size=3)),
    some.tuples(some.just("$exists"), some.booleans()),
)
operators = some.recursive(
    some.lists(comparisons, min_size=1, max_size=2).map(dict),
    lambda inner: some.fixed_dictionaries({"$not": inner}),
    max_leaves=2,
)
fields = some.dictionaries(paths, scalars | operators, min_size=1, max_size=2)
filters = some.recursive(
    fields,
    lambda inner: some.one_of(
        some.fixed_dictionaries({"$and": some.lists(inner, min_size=1, max_size=2)}),
        some.fixed_dictionaries({"$or": some.lists(inner, min_size=1, max_size=2)}),
        some.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)

ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(value: object, operand: object) -> bool:
    if is_number(value) and is_number(operand):
        return float(value) == float(operand)  # type: ignore[arg-type]  # both are numbers
    return type(value) is type(operand) and value == operand


def found(value: Any, path: str) -> tuple[Any, ...]:
    """Return what stands there, in a tuple; an empty one if nothing does."""
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return ()
    return (value,)


def compares(there: tuple[Any, ...], name: str, operand: Any) -> bool:
    among = there[0] if there and isinstance(there[0], list) else there
    match name:
        case "$eq":
            return any(equal(value, operand) for value in among) or (operand is None and not there)
        case "$in":
            return any(compares(there, "$eq", each) for each in operand)
        case "$ne" | "$nin":
            return not compares(there, {"$ne": "$eq", "$nin": "$in"}[name], operand)
        case "$exists":
            return bool(there) == operand
        case "$not":
            return not all(compares(there, *each) for each in operand.items())
        case _:
            alike = is_number if is_number(operand) else lambda value: isinstance(value, str)
            return any(alike(value) and ORDER[name](value, operand) for value in among)


def is_true(condition: dict[str, Any], of: dict[str, Any]) -> bool:
    """Return what `condition` says of a document with this metadata."""
    for name, value in condition.items():
        match name:
            case "$and":
                holds = all(is_true(each, of) for each in value)
            case "$or":
                holds = any(is_true(each, of) for each in value)
            case "$not":
                holds = not is_true(value, of)
            case _:
                told = value if isinstance(value, dict) else {"$eq": value}
                holds = all(compares(found(of, name), *each) for each in told.items())
        if not holds:
            return False
    return True


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("rag") / "rag.duckdb")
    store.apply(rag.entries(rag.created()))
    yield store
    store.close()


def put(store: Store, documents: list[dict[str, Any]]) -> None:
    """Have the store hold these documents, by number, and no others."""
    story = [(rag.stored(f"{i}"), rag.contents("x", metadata=each)) for i, each in enumerate(documents)]
    store.apply(rag.entries(rag.dropped(), rag.created(), *story, first=store.checkpoint + 1))


def ids(store: Store, condition: dict[str, Any]) -> list[str]:
    with store.cursor() as cursor:
        return document_ids(cursor, "default", where(condition))


@given(some.lists(metadata, min_size=1, max_size=5), some.lists(filters, min_size=1, max_size=8))
@settings(max_examples=25)
def test_a_filter_lets_through_what_python_would(
    store: Store, documents: list[dict[str, Any]], conditions: list[dict[str, Any]]
) -> None:
    put(store, documents)

    for condition in conditions:
        expected = [f"{i}" for i, each in enumerate(documents) if is_true(condition, each)]
        assert ids(store, condition) == expected, condition


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"filename": "1.txt"}, ["1"]),
        ({"filename": {"$ne": "1.txt"}}, ["0", "2"]),
        ({"document_id": {"$in": ["0", "2", "9"]}}, ["0", "2"]),
        ({"document_id": {"$nin": ["0"], "$gte": "0"}}, ["1", "2"]),
        ({"stored_at": {"$gt": "2026-01-02T03:04:05Z", "$lt": "2026-01-02T04:04:07+01:00"}}, ["0", "1"]),
        ({"stored_at": "2026-01-02"}, []),
        ({"stored_at": {"$in": ["2026-01-02T03:04:06.678901", "2026-01-02"]}}, ["1"]),
        ({"filename": {"$exists": False}}, []),
    ],
)
def test_a_filter_is_on_fields_that_every_document_has(
    store: Store, condition: dict[str, Any], expected: list[str]
) -> None:
    # Its metadata has no say in them.
    story = [(rag.stored(f"{i}", at=make.at(i)), rag.contents("x", metadata={"filename": "1.txt"})) for i in range(3)]
    store.apply(rag.entries(rag.dropped(), rag.created(), *story, first=store.checkpoint + 1))

    assert ids(store, condition) == expected


def test_the_documented_filter_and_operators_are_those_that_there_are(store: Store) -> None:
    text = section(page("rag.md"), "## Filters")
    (example,) = re.findall(r"```json\n(.*)\n```", text)
    story = [
        (rag.stored("a"), rag.contents("x", metadata={"year": 2020, "tags": ["physics"], "author": {"name": "Ada"}})),
        (rag.stored("b"), rag.contents("x", metadata={"year": 2019, "tags": ["physics"], "author": {"name": "Ada"}})),
    ]
    store.apply(rag.entries(rag.dropped(), rag.created(), *story, first=store.checkpoint + 1))

    with pytest.raises(RefusedError, match=r"the operators are (.*)\.") as refused:
        where({"a": {"$what": 1}})

    assert ids(store, msgspec.json.decode(example)) == ["a"]
    assert unnamed(re.findall(r"\$\w+", refused.value.failure.message)[1:], text) == []


def test_an_empty_filter_is_none() -> None:
    assert where({}) is None


def nested(depth: int) -> dict[str, Any]:
    return {"$not": nested(depth - 1)} if depth else {"a": 1}


@pytest.mark.parametrize(
    ("condition", "place"),
    [
        ({"year": {"$regex": "x"}}, "filter.year.$regex"),
        ({"$nor": []}, "filter.$nor"),
        ({"$or": []}, "filter.$or"),
        ({"$or": {"a": 1}}, "filter.$or"),
        ({"$or": [{"a": 1}, {"b": {"$gt": None}}]}, "filter.$or[1].b.$gt"),
        ({"$and": [1]}, "filter.$and[0]"),
        ({"a": {}}, "filter.a"),
        ({"a": ["x"]}, "filter.a"),
        ({"a": {"b": 1}}, "filter.a.b"),
        ({"a": {"$eq": {"b": 1}}}, "filter.a.$eq"),
        ({"a": {"$in": ["x", []]}}, "filter.a.$in[1]"),
        ({"a": {"$in": "x"}}, "filter.a.$in"),
        ({"a": {"$in": [1] * 1001}}, "filter.a.$in"),
        ({"a": {"$exists": 1}}, "filter.a.$exists"),
        ({"a": {"$gt": True}}, "filter.a.$gt"),
        ({"a": {"$not": 1}}, "filter.a.$not"),
        ({"a": 10**400}, "filter.a"),
        ({"": 1}, "filter."),
        ({"a..b": 1}, "filter.a..b"),
        ({"filename": 1}, "filter.filename"),
        ({"filename": None}, "filter.filename"),
        ({"stored_at": {"$gt": "yesterday"}}, "filter.stored_at.$gt"),
        (nested(9), "filter" + ".$not" * 9),
        ({f"{i}": 1 for i in range(101)}, "filter.100"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_with_its_place(condition: dict[str, Any], place: str) -> None:
    with pytest.raises(RefusedError, match="'") as refused:
        where(condition)

    assert refused.value.failure.param == "filter"
    assert refused.value.failure.message.startswith(f"'{place}' ")
