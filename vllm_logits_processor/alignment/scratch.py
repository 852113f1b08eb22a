"""Arrays that stay allocated from step to step."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

_Item = TypeVar("_Item", np.float32, np.int32, np.int64)


class Scratch(threading.local):
    """Arrays of one thread, as fresh memory costs more than the computation."""

    def __init__(self) -> None:
        self._held: dict[str, npt.NDArray[Any]] = {}

    def array(self, name: str, size: int, like: type[_Item]) -> npt.NDArray[_Item]:
        """Return an array of shape (size,) with old content; -1 where there is none."""
        held = self._held.get(name)
        if held is None or len(held) < size:
            held = self._held[name] = np.full(size, -1, dtype=like)
        return held[:size]


scratch = Scratch()
