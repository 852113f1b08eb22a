"""A short sketch of an adapter's B matrices, by which devices can be clustered.

Clustering devices by the B matrices of a first round is FedLEASE's way (Wang et al., "Adaptive LoRA
Experts Allocation and Selection for Federated Fine-Tuning", arXiv 2509.15087): A starts out equal
everywhere and mostly stays, B learns the task. Their measure is the cosine of two devices' B,
averaged over the layers. With every layer's B scaled to unit length, that is the cosine of all
layers put in a row, which a count sketch keeps (Charikar, Chen and Farach-Colton, 2002): the
server holds a thousand numbers per device instead of its matrices.
"""

from __future__ import annotations

import zlib

import numpy as np

from flower_strategy.adapters.adapter import AdapterState, FloatArray

SKETCH_SIZE = 1024


def sketch_adapter(adapter: AdapterState, *, rank: int) -> FloatArray:
    """Return the sketch of an adapter's B matrices.

    Parameters
    ----------
    adapter : AdapterState
        A trained adapter. Only adapters that started from the same A can be compared.
    rank : int
        Columns of B that count: the smallest rank of all devices.

    Returns
    -------
    FloatArray
        Shape (1024,), unit length; zeros for an adapter that learned nothing.
    """
    sketch = np.zeros(SKETCH_SIZE)
    for name, factors in sorted(adapter.layers.items()):
        columns = factors.b[:, :rank].ravel().astype(np.float64)
        length = np.linalg.norm(columns)
        if not length:
            continue
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        places = generator.integers(0, SKETCH_SIZE, columns.size)
        signs = generator.choice((-1.0, 1.0), columns.size)
        sketch += np.bincount(places, weights=signs * columns / length, minlength=SKETCH_SIZE)
    return np.asarray(sketch / max(float(np.linalg.norm(sketch)), 1e-12), dtype=np.float32)
