"""Qwen2-VL and Qwen3-VL in mlx: from tokens and patches to vectors. Everything here runs on the engine thread.

The model code is that of mlx-vlm; its language model is asked for the states, not for words.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from actors.engines.architectures import architecture, dtype_of, fill, read, weights_in
from actors.engines.pictures_folder import PictureFolder, qwen_settings
from actors.engines.pictures_input import Row
from actors.engines.pictures_pixels import Pixels, patches
from actors.model_files import read_json

# The head gives chances of words, which nobody asks for. It is a fifteenth of the weights of Ops-MM-embedding-v1-7B.
_HEAD: Final = "language_model.lm_head."


class QwenModel:
    """A loaded model. On the CPU its weights are widened to float32, the only dtype that is fast there."""

    def __init__(self, folder: PictureFolder) -> None:
        """Load. Raises `ValueError` for weights that do not fit."""
        self._folder = folder
        self._model = load_qwen(folder)
        weights = read(self._model)
        self.size_bytes = sum(array.nbytes for array in weights)
        self.dtype = dtype_of(weights)

    def warm_up(self) -> None:
        """Run a text, and a text with a picture, so that no request pays for preparing kernels."""
        side = self._folder.pixels.patch * self._folder.pixels.merge
        picture = np.zeros((2 * side, 2 * side, 3), np.uint8)
        text = Row(tokens=(0,) * 8, pictures=(), length=8, prompt_tokens=8)
        tokens = (self._folder.show, *[self._folder.seen] * 4, 0)
        shown = Row(tokens=tokens, pictures=(picture,), length=len(tokens), prompt_tokens=len(tokens))
        self.results((text,))
        self.results((text, shown))

    def results(self, rows: Sequence[Row]) -> list[bytes]:
        """Return a normalised vector for each row, as little-endian float32."""
        lengths = np.array([len(row.tokens) for row in rows])
        ids = np.zeros((len(rows), lengths.max()), np.int32)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row.tokens)] = row.tokens
        states = self._states(mx.array(ids), lengths, [picture for row in rows for picture in row.pictures])
        # Filled up at the end: no token sees what comes after it.
        last = states[mx.arange(len(rows)), mx.array(lengths - 1)].astype(mx.float32)
        vectors = last / mx.maximum(mx.linalg.norm(last, axis=-1, keepdims=True), 1e-12)
        return [vector.tobytes() for vector in np.array(vectors).astype("<f4", copy=False)]

    def free(self) -> None:
        """Give the weights back. No other call may follow."""
        del self._model
        mx.clear_cache()

    def _states(self, ids: mx.array, lengths: NDArray[np.int64], pictures: Sequence[Pixels]) -> mx.array:
        """Return the last hidden states: texts × tokens × dimensions."""
        language: Callable[..., mx.array] = self._model.language_model.model
        if not pictures:
            return language(ids)
        pixels, grids = patches(pictures, self._folder.pixels)
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int32)
        features = self._model.get_input_embeddings(
            ids, mx.array(pixels), image_grid_thw=mx.array(grids.astype(np.int32)), mask=mx.array(mask)
        )
        # Positions are handed over: the model itself would keep those of the call before.
        positions = None if self._folder.has_plain_positions else features.position_ids
        deep = {}
        if self._folder.family == "qwen3_vl":
            deep = {
                "visual_pos_masks": features.visual_pos_masks,
                "deepstack_visual_embeds": features.deepstack_visual_embeds,
            }
        return language(ids, inputs_embeds=features.inputs_embeds, position_ids=positions, **deep)


def load_qwen(folder: PictureFolder) -> Any:
    """Return the library's model, without its head, its weights not read yet. It has no types."""
    package = f"mlx_vlm.models.{folder.family}"
    library = architecture(f"{package}.{folder.family}", f"{package}.processing_{folder.family}")
    settings = architecture(f"{package}.config")
    said = qwen_settings(read_json(folder.path / "config.json"))
    config = settings.ModelConfig.from_dict({**said})
    config.text_config = settings.TextConfig.from_dict(said["text_config"])
    config.vision_config = settings.VisionConfig.from_dict(said["vision_config"])
    model = library.Model(config)
    model.language_model.pop("lm_head", None)
    weights = model.vision_tower.sanitize(model.sanitize(weights_in(folder.path)))
    used = {name: array for name, array in weights.items() if not name.startswith(_HEAD)}
    fill(model, used, folder.quantisation)
    return model
