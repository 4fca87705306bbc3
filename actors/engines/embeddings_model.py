"""An embedding model in mlx: from token ids to vectors. Everything here runs on the engine threads.

The only place that imports mlx-embeddings, which is GPL-licensed and optional.
"""

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

import mlx.core as mx
import numpy as np

from actors.engines.architectures import architecture, dtype_of, is_cpu, read, weights_in
from actors.engines.embeddings_cpu import FastLayers
from actors.engines.embeddings_folder import BERTS, EmbeddingFolder, Pooling
from actors.engines.embeddings_tokens import TokenRow

# These families need nothing but mlx; the others, and quantised weights, need the library's own loader.
_PLAIN: Final = frozenset(("bert", "modernbert", "qwen3", "xlm_roberta"))


class VectorModel:
    """A loaded model, whose rows are token ids.

    On the CPU its weights are widened to float32, the only dtype that is fast there.
    """

    def __init__(self, folder: EmbeddingFolder) -> None:
        """Load. Raises `ValueError` for weights that do not fit, `ModelFilesError` without any."""
        self._folder = folder
        self._model = _load(folder)
        weights = read(self._model)
        self._layers = FastLayers(self._model) if is_cpu() and folder.family in BERTS else None
        self.size_bytes = sum(array.nbytes for array in weights)
        self.dtype = dtype_of(weights)
        # mlx is lazy: this asks for a shape and computes nothing.
        self.dimensions = self._pooled([_row(1)]).shape[-1]

    def warm_up(self) -> None:
        """Run a short and a longer batch, so that no request pays for preparing kernels."""
        self.results([_row(1)])
        self.results([_row(min(self._folder.max_tokens, 128)), _row(1)])

    def results(self, rows: Sequence[TokenRow]) -> list[bytes]:
        """Return a vector for each row, as little-endian float32."""
        return [row.tobytes() for row in np.array(self._pooled(rows)).astype("<f4", copy=False)]

    def free(self) -> None:
        """Give the weights back. No other call may follow."""
        del self._model, self._layers
        mx.clear_cache()

    def _pooled(self, rows: Sequence[TokenRow]) -> mx.array:
        lengths = np.array([len(row.ids) for row in rows])[:, None]
        ids = np.full((len(rows), lengths.max()), self._folder.pad_id, dtype=np.int32)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row.ids)] = row.ids
        places = np.arange(ids.shape[1])
        mask = (places < lengths).astype(np.int32)
        hidden = self._hidden(mx.array(ids), mx.array(mask)).astype(mx.float32)
        mask[places < np.array([row.skipped for row in rows])[:, None]] = 0
        pooled = _POOL[self._folder.pooling](hidden, mx.array(mask))
        if self._folder.family == "gemma3_text":
            for dense in self._model.dense:
                pooled = dense(pooled).astype(mx.float32)
        if self._folder.is_normalised:
            pooled = pooled / mx.maximum(mx.linalg.norm(pooled, axis=-1, keepdims=True), 1e-12)
        return pooled

    def _hidden(self, ids: mx.array, mask: mx.array) -> mx.array:
        if self._layers is not None:
            return self._layers(ids, mask)
        if self._folder.family == "modernbert":
            # Its outer class pools by a setting of its own, and its masks take the dtype of ours.
            states: mx.array = self._model.model(ids, mask.astype(getattr(mx, self.dtype)))["last_hidden_state"]
        else:
            states = self._model(ids, attention_mask=mask).last_hidden_state
        return states


def _row(length: int) -> TokenRow:
    return TokenRow(np.zeros(length, dtype=np.int32))


def _mean(states: mx.array, mask: mx.array) -> mx.array:
    return mx.where(mask[..., None], states, 0).sum(axis=1) / mask.sum(axis=1, keepdims=True)


def _cls(states: mx.array, mask: mx.array) -> mx.array:
    return states[mx.arange(states.shape[0]), mask.argmax(axis=1)]


def _max(states: mx.array, mask: mx.array) -> mx.array:
    return mx.where(mask[..., None], states, -mx.inf).max(axis=1)


def _last(states: mx.array, mask: mx.array) -> mx.array:
    return states[mx.arange(states.shape[0]), (mask * mx.arange(mask.shape[1])).argmax(axis=1)]


_POOL: Final[dict[Pooling, Callable[[mx.array, mx.array], mx.array]]] = {
    "mean": _mean,
    "cls": _cls,
    "max": _max,
    "last": _last,
}


def _load(folder: EmbeddingFolder) -> Any:
    """Return the library's model of the family. Neither mlx nor the library has types for it."""
    if folder.is_quantised or folder.family not in _PLAIN:
        model = import_module("mlx_embeddings.utils").load_model(folder.path)
        if is_cpu():
            # A quantised product takes 3 to 10 times as long as one in float32 there.
            model = import_module("mlx_lm.utils").dequantize_model(model)
        return model
    library = architecture(f"mlx_embeddings.models.{folder.family}")
    config = json.loads((folder.path / "config.json").read_bytes())
    model = library.Model(library.ModelArgs.from_dict(config))
    weights = library.Model.sanitize(model, weights_in(folder.path))
    model.load_weights(list(weights.items()))
    model.eval()
    return model
