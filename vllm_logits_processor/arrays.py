"""The types of the arrays that are handed on in a decoding step; their shapes are in docstrings."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

#: Probabilities, logarithms, weights.
Float64Array: TypeAlias = npt.NDArray[np.float64]

#: Rows, places, and tokens of a step.
IntArray: TypeAlias = npt.NDArray[np.int64]

#: Tokens, their places and their numbers over a whole vocabulary, as the alignment maps hold them.
TokenArray: TypeAlias = npt.NDArray[np.int32]
