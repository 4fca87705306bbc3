"""Whose a collection is: where collections are private, the same name is another one for each API key."""


def collection_id(name: str, key: str | None, *, is_private: bool) -> str:
    """Return the id of the collection that the owner of `key`, a fingerprint, calls `name`."""
    # No name has an @.
    return f"{name}@{key}" if is_private and key else name


def is_visible(collection: str, key: str | None, *, is_private: bool) -> bool:
    """Say whether the owner of `key` may see the collection with this id."""
    return collection == collection_id(name_of(collection), key, is_private=is_private)


def name_of(collection: str) -> str:
    """Return what its users call the collection."""
    return collection.partition("@")[0]
