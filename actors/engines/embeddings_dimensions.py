"""How long the vectors of a model are, and to what they may be cut. Touches no mlx."""

import numpy as np
from msgspec import Struct

from bus.errors import RefusedError
from bus.messages.embeddings import EmbedRequest


class Dimensions(Struct, frozen=True, kw_only=True):
    """The length of a model's vectors, and `offered`: the lengths they are made to be cut to.

    `offered` is None for a model that is not made for it, and empty for one that may be cut anywhere.
    """

    full: int
    offered: tuple[int, ...] | None
    is_normalised: bool = True


def asked_dimensions(request: EmbedRequest, dimensions: Dimensions) -> int:
    """Return how long the vectors of `request` are to be. Raises `RefusedError` for what the model does not offer."""
    asked, offered = request.dimensions or dimensions.full, dimensions.offered
    if asked > dimensions.full:
        raise _refusal(f"This model's vectors have {dimensions.full} dimensions, not {asked}.")
    if asked == dimensions.full or request.allow_lossy or offered == () or asked in (offered or ()):
        return asked
    if offered is None:
        raise _refusal(
            f"This model's vectors have {dimensions.full} dimensions and are not made to be cut; "
            "with `allow_lossy` they are cut nevertheless."
        )
    offer = ", ".join(str(each) for each in (*sorted(offered), dimensions.full))
    raise _refusal(f"This model offers {offer} dimensions, not {asked}; with `allow_lossy` it is cut to any.")


def cut(vector: bytes, length: int, dimensions: Dimensions) -> bytes:
    """Return the first `length` numbers of `vector`, normalised again if it was. Both are little-endian float32."""
    if length == dimensions.full:
        return vector
    numbers = np.frombuffer(vector, "<f4")[:length]
    if dimensions.is_normalised:
        numbers = numbers / max(float(np.linalg.norm(numbers)), 1e-12)
    return numbers.astype("<f4", copy=False).tobytes()


def _refusal(message: str) -> RefusedError:
    return RefusedError("invalid_request", message, param="dimensions")
