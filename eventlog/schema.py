"""The JSON schema of the events: `python -m eventlog.schema` prints what is in docs/events/schema.json."""

import json
from typing import Any, get_args

import msgspec

from eventlog.events import Event

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def kinds() -> tuple[str, ...]:
    """Return all kinds of events, by name."""
    return tuple(sorted(_tag(kind) for kind in get_args(Event)))


def schema() -> Schema:
    """Return one schema that all events are valid against; `$defs` has that of each kind under its name.

    Fields that it does not name are valid: later versions add some.
    """
    structs = sorted(get_args(Event), key=_tag)
    refs, components = msgspec.json.schema_components(structs, ref_template="#/$defs/{name}")
    names = {struct.__name__: _tag(struct) for struct in structs}
    definitions = {names.get(name, name): _described(component) for name, component in components.items()}
    return {
        "$schema": _DIALECT,
        "title": "The events of Fusion",
        "oneOf": [{"$ref": f"#/$defs/{names[ref['$ref'].rpartition('/')[2]]}"} for ref in refs],
        "$defs": definitions,
    }


def schema_of(kind: str) -> Schema | None:
    """Return the schema of one kind of events; None for a kind that there is not."""
    if kind not in kinds():
        return None
    whole = schema()
    own = whole["$defs"].pop(kind)
    others = {name: each for name, each in whole["$defs"].items() if name not in kinds()}
    return {"$schema": _DIALECT, **own, "$defs": others}


def _tag(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


def _described(component: Schema) -> Schema:
    return component | {"description": " ".join(str(component.get("description", "")).split())}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))  # noqa: T201 - this is what it is called for
