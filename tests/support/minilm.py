"""What all-MiniLM-L6-v2 makes of some texts."""

import numpy as np
from numpy.typing import ArrayLike

# The first eight numbers of all-MiniLM-L6-v2's vectors, each of norm 1. Computed by this engine after 50
# abstracts (cut at 256 tokens) and 300 queries of SciFact had agreed with vectors of the original model,
# stored as float16, to a cosine of 0.9999999.
GOLDEN = {
    "A heron stands still in the shallow water.": (
        (-0.0037804, 0.027775, -0.0241998, -0.0362336, 0.0021471, -0.0147191, 0.0349265, -0.0355528)
    ),
    "Restart the worker, then replay the event log.": (
        (0.0122033, -0.0234521, -0.000472, 0.033719, 0.0560711, -0.0183534, -0.0113857, -0.0785937)
    ),
    "¿Dónde está la biblioteca municipal?": (
        (0.0624405, -0.0543204, -0.014494, 0.0162378, -0.0352671, 0.0047036, 0.0183838, 0.0121547)
    ),
    "def add(a, b): return a + b": (
        (-0.0237881, -0.0060084, -0.0671258, 0.0234884, -0.0913754, 0.0185264, 0.0567196, -0.0494774)
    ),
    "Low tide uncovers the wreck twice a month, and children climb what is left of its ribs.": (
        (0.0126221, 0.0703827, 0.1327675, 0.0734855, -0.0148728, 0.003763, -0.0887133, 0.0110732)
    ),
}


def known(vectors: ArrayLike) -> bool:
    """Return whether these are the vectors of the texts of GOLDEN, in their order."""
    rows = np.array(vectors)
    return (
        rows.shape == (len(GOLDEN), 384)
        and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        and np.allclose(rows[:, :8], list(GOLDEN.values()), atol=1e-5)
    )
