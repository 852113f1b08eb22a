"""Functions compiled by numba, which vLLM itself requires, and the types of their parameters.

Import this module, and those with compiled functions, where they are used, not at the top of a
file: vLLM 0.32 scans all loaded modules when a worker starts, and fails on llvmlite's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias, TypeVar, cast, get_type_hints

import numpy as np
import numpy.typing as npt
from numba import (  # type: ignore[import-untyped]
    boolean,
    float32,
    float64,
    int32,
    int64,
    njit,
    types,
    void,
)

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Parameters and results of compiled functions, for type checkers and for the compiler. What comes
# from the maps or from a reply may be a view of something that cannot be written.
Logits: TypeAlias = Annotated[npt.NDArray[np.float32], types.Array(float32, 2, "C")]
Row: TypeAlias = Annotated[npt.NDArray[np.float32], types.Array(float32, 1, "C")]
OfMaps: TypeAlias = Annotated[npt.NDArray[np.int32], types.Array(int32, 1, "C", readonly=True)]
OffsetsOfMaps: TypeAlias = Annotated[
    npt.NDArray[np.int64], types.Array(int64, 1, "C", readonly=True)
]
Entries: TypeAlias = Annotated[npt.NDArray[np.int32], types.Array(int32, 1, "C")]
Places: TypeAlias = Annotated[npt.NDArray[np.int64], types.Array(int64, 1, "C")]
PlaceTable: TypeAlias = Annotated[npt.NDArray[np.int64], types.Array(int64, 2, "C")]
TopIds: TypeAlias = Annotated[npt.NDArray[np.int64], types.Array(int64, 2, "C", readonly=True)]
TopValues: TypeAlias = Annotated[
    npt.NDArray[np.float64], types.Array(float64, 2, "C", readonly=True)
]
Sums: TypeAlias = Annotated[npt.NDArray[np.float64], types.Array(float64, 1, "C")]
SumTable: TypeAlias = Annotated[npt.NDArray[np.float64], types.Array(float64, 2, "C")]
SumTables: TypeAlias = Annotated[npt.NDArray[np.float64], types.Array(float64, 3, "C")]
Flags: TypeAlias = Annotated[npt.NDArray[np.bool_], types.Array(boolean, 1, "C")]
Count: TypeAlias = Annotated[int, int64]
Number: TypeAlias = Annotated[float, float64]
Shift: TypeAlias = Annotated[np.float32, float32]
TwoSums: TypeAlias = Annotated[tuple[float, float], types.UniTuple(float64, 2)]
FivePlaces: TypeAlias = Annotated[
    tuple[
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
        npt.NDArray[np.int64],
    ],
    types.UniTuple(types.Array(int64, 1, "C"), 5),
]


def compiled(*, fast: bool) -> Callable[[_Function], _Function]:
    """Compile immediately, and cache the result on disk if a folder is writable."""
    # Order and contraction of float operations are free; NaN and infinities keep their meaning.
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"} if fast else False}

    def compile_(function: _Function) -> _Function:
        # In the order of the parameters, the result last; a function without a result returns None.
        hints = get_type_hints(function, include_extras=True)
        *taken, given = (getattr(hint, "__metadata__", (void,))[0] for hint in hints.values())
        signature = given(*taken)
        try:
            return cast("_Function", njit(signature, cache=True, **options)(function))
        except RuntimeError:
            # "No locator available": neither this folder nor the user's can be written.
            return cast("_Function", njit(signature, **options)(function))

    return compile_
