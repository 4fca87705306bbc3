"""Makes one vector of those of a video's frames."""

from collections.abc import Sequence
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from bus.messages.embeddings import FramePooling


def pooled(frames: Sequence[bytes], pooling: FramePooling) -> bytes:
    """Return the vector of a video, normalised, of those of its frames. All are little-endian float32.

    "mean" and "max" go number by number, "first" takes the first frame. "attention" is ours, for want of a model that
    was trained with one: a mean weighted by the softmax of the cosine of each frame to the mean of all, so that a frame
    unlike the others, such as a black one, counts less.
    """
    if len(frames) == 1:
        return frames[0]
    vectors = np.array([np.frombuffer(frame, "<f4") for frame in frames])
    return _unit(_pooled(vectors, pooling)).astype("<f4").tobytes()


def _pooled(vectors: NDArray[np.float32], pooling: FramePooling) -> NDArray[np.float32]:
    match pooling:
        case "mean":
            return np.asarray(vectors.mean(axis=0))
        case "max":
            return np.asarray(vectors.max(axis=0))
        case "first":
            return np.asarray(vectors[0])
        case "attention":
            weights = np.exp(vectors @ _unit(vectors.mean(axis=0)))
            return np.asarray(weights @ vectors / weights.sum())
        case _:
            assert_never(pooling)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
