"""SigLIP in mlx: texts and images to vectors of one space. Everything here runs on the engine thread.

The model code is that of mlx-embeddings, which is GPL-licensed and optional.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from actors.engines.architectures import architecture, dtype_of, fill, read, weights_in
from actors.engines.pictures_folder import PictureFolder
from actors.engines.pictures_input import Row
from actors.engines.pictures_pixels import normalised
from actors.model_files import read_json


class SiglipModel:
    """A loaded model. On the CPU its weights are widened to float32, the only dtype that is fast there."""

    def __init__(self, folder: PictureFolder) -> None:
        """Load. Raises `ValueError` for weights that do not fit."""
        self._folder = folder
        self._model = load_siglip(folder)
        weights = read(self._model)
        self.size_bytes = sum(array.nbytes for array in weights)
        self.dtype = dtype_of(weights)

    def warm_up(self) -> None:
        """Run a text and an image, so that no request pays for preparing kernels."""
        pixels = self._folder.pixels
        text = Row(tokens=(0,) * self._folder.max_tokens, pictures=(), length=1, prompt_tokens=1)
        picture = np.zeros((pixels.height, pixels.width, 3), np.uint8)
        self.results((text, Row(tokens=(), pictures=(picture,), length=1, prompt_tokens=1)))

    def results(self, rows: Sequence[Row]) -> list[bytes]:
        """Return a normalised vector for each row, as little-endian float32. Texts are computed together."""
        vectors = np.empty((len(rows), self._folder.dimensions), "<f4")
        texts = [number for number, row in enumerate(rows) if not row.pictures]
        images = [number for number, row in enumerate(rows) if row.pictures]
        if texts:
            ids = mx.array(np.array([rows[number].tokens for number in texts], np.int32))
            vectors[texts] = _unit(self._model.get_text_features(ids))
        if images:
            pixels = np.stack([normalised(rows[number].pictures[0], self._folder.pixels) for number in images])
            vectors[images] = _unit(self._model.get_image_features(mx.array(pixels)))
        return [vector.tobytes() for vector in vectors]

    def free(self) -> None:
        """Give the weights back. No other call may follow."""
        del self._model
        mx.clear_cache()


def load_siglip(folder: PictureFolder) -> Any:
    """Return the library's model, its weights not read yet. It has no types.

    Its own loader takes the size of images from the folder's name, and fails for settings that it does not know.
    """
    library = architecture("mlx_embeddings.models.siglip")
    said = read_json(folder.path / "config.json")
    sides = {
        f"{side}_config": kind(**_known(kind, said.get(f"{side}_config", {})))
        for side, kind in (("text", library.TextConfig), ("vision", library.VisionConfig))
    }
    model = library.Model(library.ModelArgs(**sides))
    weights = model.vision_model.sanitize(model.sanitize(weights_in(folder.path)))
    fill(model, weights, folder.quantisation)
    return model


def _known(kind: type, said: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name in inspect.signature(kind).parameters}


def _unit(features: mx.array) -> NDArray[np.float32]:
    wide = features.astype(mx.float32)
    return np.array(wide / mx.maximum(mx.linalg.norm(wide, axis=-1, keepdims=True), 1e-12))
