"""What the engines of embeddings and rerankers do alike: have a model or not, tell of it, and free it."""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from actors.engines.blas import prepare_blas
from actors.engines.engine import ModelFacts
from actors.engines.profile import profile
from actors.engines.rows import RowModel, Rows, not_loaded

RowT = TypeVar("RowT")
PartsT = TypeVar("PartsT")


class Folder(Protocol):
    """What the files of a model say of it."""

    @property
    def family(self) -> str:
        """Whose code computes it."""
        ...

    @property
    def max_tokens(self) -> int:
        """How much it reads at once."""
        ...


class Measured(RowModel[Any], Protocol):
    """A model that knows what its weights take, and the type of those that are not packed."""

    size_bytes: int
    dtype: str


ModelT = TypeVar("ModelT", bound=RowModel[Any])


class Loaded(Generic[RowT, PartsT]):
    """A model that computes `rows`, and its `parts`: what else exists while it is loaded, such as its tokenizer."""

    def __init__(self, rows: Rows[RowT]) -> None:
        self._rows = rows
        self._parts: PartsT | None = None

    @property
    def parts(self) -> PartsT:
        """What exists while a model is loaded. Raises `RefusedError` when none is."""
        if self._parts is None:
            raise not_loaded()
        return self._parts

    async def load(self, build: Callable[[], ModelT], parts: Callable[[ModelT], PartsT], *, warm_up: bool) -> ModelT:
        """Return the model that `build` makes on its thread, and keep its parts. Raises what `build` raises."""
        model = await self._rows.load(build, warm_up=warm_up)
        self._parts = parts(model)
        return model

    async def unload(self) -> None:
        """Free the model and end its thread. Requests under way end with `RefusedError`."""
        self._parts = None
        await self._rows.unload()


def facts_of(folder: Folder, model: Measured, dimensions: int | None = None) -> ModelFacts:
    """Return what a loaded model says of itself."""
    return ModelFacts(
        family=folder.family,
        context_length=folder.max_tokens,
        size_bytes=model.size_bytes,
        dtype=model.dtype,
        blas=prepare_blas(),
        dimensions=dimensions,
        profile=profile().name,
    )
