"""Reads the configuration of a model, which anybody may have written."""

from collections.abc import Mapping
from typing import Any, Self

# Larger is no size of anything.
_MOST = 2**40


class ModelConfig:
    """A part of a configuration. What is missing, or is of another type than it should be, counts as not said."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._said = said

    @property
    def names(self) -> tuple[str, ...]:
        """What is said."""
        return tuple(self._said)

    def __contains__(self, name: str) -> bool:
        return self._said.get(name) is not None

    def text(self, name: str) -> str:
        """Return the text `name`, or an empty one."""
        said = self._said.get(name)
        return said if isinstance(said, str) else ""

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts in the list `name`."""
        said = self._said.get(name)
        return tuple(each for each in said if isinstance(each, str)) if isinstance(said, list) else ()

    def number(self, *names: str) -> int | None:
        """Return the first of `names` that is a whole number above 0: families differ in how they call things."""
        said = (self._said.get(name) for name in names)
        return next((each for each in said if type(each) is int and 0 < each < _MOST), None)

    def part(self, name: str) -> Self:
        """Return the object `name`."""
        said = self._said.get(name)
        return type(self)(said if isinstance(said, dict) else {})

    def parts(self) -> dict[str, Self]:
        """Return all objects."""
        return {name: type(self)(said) for name, said in self._said.items() if isinstance(said, dict)}

    @property
    def language(self) -> Self:
        """The part about the language model: of those that read more than text, it is a part of its own."""
        return self.part("text_config") if "text_config" in self else self
