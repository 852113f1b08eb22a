"""Several arrays of 4-byte numbers in one buffer, to be sent to a device or to another rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from vllm_logits_processor.arrays import IntArray

#: Numbers between two places at which a part may begin: Triton compiles another kernel for pointers
#: that are not multiples of 16 bytes.
ALIGNED = 4


def aligned(size: int) -> int:
    """Return the next place at which a part may begin."""
    return -(-size // ALIGNED) * ALIGNED


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Named parts of a buffer, which begins with their sizes.

    Attributes
    ----------
    data : int32 array
        Parts of floats have their bits in it.
    places : mapping of str to slice
    """

    data: npt.NDArray[np.int32]
    places: Mapping[str, slice]

    @classmethod
    def of(cls, parts: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Pack arrays: integers and truth values as int32, floats as float32."""
        sizes = [part.size for part in parts.values()]
        places, total = _places(tuple(parts), sizes)
        data = np.zeros(total, dtype=np.int32)
        data[: len(sizes)] = sizes
        for name, part in parts.items():
            whole = data[places[name]]
            if part.dtype.kind == "f":
                whole.view(np.float32)[:] = part.reshape(-1)
            else:
                whole[:] = part.reshape(-1)
        return cls(data=data, places=places)

    @classmethod
    def read(cls, names: Sequence[str], data: npt.NDArray[np.int32]) -> Self:
        """Find the parts of a buffer that another rank has packed."""
        places, _ = _places(names, data[: len(names)].tolist())
        return cls(data=data, places=places)

    def size(self, name: str) -> int:
        """Return how many numbers a part has."""
        place = self.places[name]
        return int(place.stop - place.start)

    def integers(self, name: str) -> IntArray:
        """Return a part as int64 array."""
        return self.data[self.places[name]].astype(np.int64)

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """Return a part as float32 array."""
        return self.data[self.places[name]].view(np.float32)

    def of_device(self, data: torch.Tensor, *names: str) -> list[torch.Tensor]:
        """Return the parts of a copy of the buffer on a device, int32."""
        return [data[self.places[name]] for name in names]


def _places(names: Sequence[str], sizes: Sequence[int]) -> tuple[dict[str, slice], int]:
    """Return where the parts are, and the size of the whole buffer."""
    at, places = aligned(len(names)), {}
    for name, size in zip(names, sizes, strict=True):
        places[name] = slice(at, at + size)
        at += aligned(size)
    return places, at
