"""Types of the arrays in a decoding step; docstrings give their shapes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

#: Probabilities, logarithms, weights.
Float64Array: TypeAlias = npt.NDArray[np.float64]

#: Rows, places, and tokens of a step.
IntArray: TypeAlias = npt.NDArray[np.int64]

#: Tokens, their places and their counts over a whole vocabulary, as in the alignment maps.
TokenArray: TypeAlias = npt.NDArray[np.int32]
