"""Which values a field of a message may have, where they are a list of words."""

import re
from collections.abc import Iterator

from msgspec import inspect

_STEP = re.compile(r"\[(?:\d+|\.\.\.)\]|[^.\[\]]+")


def allowed(kind: object, path: str) -> tuple[object, ...]:
    """Return what may stand at `path` in a `kind`, such as `messages[0].role`; empty if that is no list of values."""
    *steps, last = _STEP.findall(path) or [""]
    types = list(_alternatives(inspect.type_info(kind)))
    for step in steps:
        types = [below for each in types for below in _below(each, step)]
    values: list[object] = []
    for each in types:
        if isinstance(each, inspect.StructType) and each.tag_field == last and each.tag is not None:
            values.append(each.tag)
        values += [
            value for below in _below(each, last) if isinstance(below, inspect.LiteralType) for value in below.values
        ]
    return tuple(dict.fromkeys(values))


def _below(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    """Yield what may stand one `step` below."""
    match kind:
        case inspect.StructType() if not step.startswith("["):
            for field in kind.fields:
                if field.encode_name == step:
                    yield from _alternatives(field.type)
        case inspect.ListType() | inspect.VarTupleType() if step.startswith("["):
            yield from _alternatives(kind.item_type)
        case inspect.DictType() if step.startswith("["):
            yield from _alternatives(kind.value_type)
        case _:
            pass


def _alternatives(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _alternatives(each)
    else:
        yield kind
