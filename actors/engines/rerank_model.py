"""A reranker in mlx: from token ids to scores. Everything here runs on the engine threads."""

import struct
from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from mlx.nn.layers.activations import gelu

from actors.engines.architectures import architecture, dtype_of, fill, is_cpu, read, weights_in
from actors.engines.embeddings_cpu import FastLayers
from actors.engines.embeddings_folder import BERTS
from actors.engines.rerank_folder import RerankFolder
from actors.engines.rerank_tokens import Row
from actors.model_files import read_json

_SCORE = struct.Struct("<d")


class Network(Protocol):
    """What tells how well a document answers a query. `module` has the weights."""

    module: Any

    def logits(self, rows: Sequence[Row]) -> mx.array:
        """Return one number for each row, above 0 for an answer."""
        ...


class ScoreModel:
    """A loaded model, whose rows are a query with a document.

    On the CPU its weights are widened to float32, the only dtype that is fast there.
    """

    def __init__(self, folder: RerankFolder, network: Network) -> None:
        self._folder = folder
        self._network = network
        weights = read(network.module)
        self.size_bytes = sum(array.nbytes for array in weights)
        self.dtype = dtype_of(weights)

    def warm_up(self) -> None:
        """Run a short and a longer batch, so that no request pays for preparing kernels."""
        longer = min(self._folder.max_tokens, 128)
        self.results([Row((0,), (0,))])
        self.results([Row((0,) * longer, (0,) * longer), Row((0,), (0,))])

    def results(self, rows: Sequence[Row]) -> list[bytes]:
        """Return a score for each row: in float32, high ones would all be 1."""
        logits = np.array(self._network.logits(rows).astype(mx.float32)).astype(np.float64)
        return [_SCORE.pack(score) for score in 1 / (1 + np.exp(-logits))]

    def free(self) -> None:
        """Give the weights back. No other call may follow."""
        del self._network
        mx.clear_cache()


def score_of(result: bytes) -> float:
    """Return the score, from 0 to 1, in a result of `ScoreModel`."""
    score: float = _SCORE.unpack(result)[0]
    return score


class CrossEncoder:
    """Reads query and document at once, and has one label. The code of the families is mlx-vlm's."""

    def __init__(self, folder: RerankFolder) -> None:
        """Load. Raises `ValueError` for weights that do not fit, `ModelFilesError` without any."""
        library = architecture(f"mlx_vlm.models.{folder.family}")
        config = read_json(folder.path / "config.json")
        for kind, name in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
            # As transformers 5 writes them.
            if theta := ((config.get("rope_parameters") or {}).get(kind) or {}).get("rope_theta"):
                config[name] = theta
        settings = library.ModelConfig.from_dict(config | {"num_labels": 1})
        self.module = _filled(library.SequenceClassificationModel(settings), folder)
        if folder.family == "modernbert":
            self._mend()
        self._folder = folder
        self._layers = FastLayers(self.module) if is_cpu() and folder.family in BERTS else None

    def logits(self, rows: Sequence[Row]) -> mx.array:
        """Return the logit of the label for each row."""
        ids = _padded([row.tokens for row in rows], self._folder.pad_id)
        mask = _padded([(1,) * len(row.tokens) for row in rows], 0)
        types = _padded([row.types for row in rows], 0) if self._folder.reads_types else None
        return self._logits(ids, mask, types)[:, 0]

    def _logits(self, ids: mx.array, mask: mx.array, types: mx.array | None) -> mx.array:
        logits: mx.array
        if self._layers is None:
            logits = self.module(ids, attention_mask=mask, token_type_ids=types).logits
        else:
            states = self._layers(ids, mask, types)
            # XLM-RoBERTa's classifier pools by itself.
            logits = self.module.classifier(self.module.pooler(states) if "pooler" in self.module else states)
        return logits

    def _mend(self) -> None:
        # The library approximates the activation that the models were trained with.
        for part in (self.module.head, *(layer.mlp for layer in self.module.layers)):
            part.act = gelu
        if self.module.classifier.weight.dtype == mx.float16 and not is_cpu():
            # Its masks hold -1e9, which float16 cannot.
            self.module.set_dtype(mx.bfloat16)


class YesOrNo:
    """Is asked in words whether the document answers the query. The code of the families is mlx-lm's."""

    def __init__(self, folder: RerankFolder, answers: tuple[int, int]) -> None:
        """Load; `answers` are the tokens of yes and no. Raises as `CrossEncoder` does."""
        library = architecture(f"mlx_lm.models.{folder.family}")
        settings = library.ModelArgs.from_dict(read_json(folder.path / "config.json"))
        self.module = _filled(library.Model(settings), folder)
        self._answers = answers

    def logits(self, rows: Sequence[Row]) -> mx.array:
        """Return the logit of yes less that of no for each row."""
        # Padding behind a text needs no mask: a token reads only those before it.
        states = self.module.model(_padded([row.tokens for row in rows], 0))
        last = states[mx.arange(len(rows)), mx.array([len(row.tokens) - 1 for row in rows])]
        is_tied = self.module.args.tie_word_embeddings
        logits: mx.array = self.module.model.embed_tokens.as_linear(last) if is_tied else self.module.lm_head(last)
        yes, no = self._answers
        return logits[:, yes] - logits[:, no]


def _padded(rows: Sequence[Sequence[int]], padding: int) -> mx.array:
    padded = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int32)
    for row, numbers in zip(padded, rows, strict=True):
        row[: len(numbers)] = numbers
    return mx.array(padded)


def _filled(module: Any, folder: RerankFolder) -> Any:
    """Return `module` with the weights of `folder`."""
    fill(module, module.sanitize(weights_in(folder.path)), folder.quantisation)
    return module
