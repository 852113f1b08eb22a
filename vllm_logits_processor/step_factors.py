"""The factors of the rows of one step, kept until the sampled tokens are known."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from vllm_logits_processor.alignment.align import Aligned
from vllm_logits_processor.alignment.maps import NOTHING

#: More than any vocabulary has tokens.
_STRIDE = 1 << 32


class StepFactors:
    """The factors `m` of a step's rows; of a row they are a few hundred numbers.

    Nothing of the host's rows is kept, and nothing on a GPU. The streams of the step share it.
    """

    def __init__(self, aligned: Aligned) -> None:
        groups = aligned.groups
        self._first_expert = aligned.maps.first_expert
        self._experts = aligned.top.token_ids
        self._table, self._factors = groups.without_singles(aligned.factors)
        self._singles = groups.single_row * _STRIDE + groups.single_token
        self._found: dict[tuple[int, int], float] = {}

    def only(self, row: int) -> StepFactors:
        """Return the factors of one row, copied; its place is 0."""
        alone = copy(self)
        mine = self._singles // _STRIDE == row
        alone._experts, alone._table = self._experts[[row]], self._table[[row]]
        alone._singles, alone._factors = self._singles[mine] - row * _STRIDE, self._factors[mine]
        alone._found = {}
        return alone

    @property
    def nbytes(self) -> int:
        """Bytes that are kept; the maps are those of all steps."""
        arrays = (self._experts, self._table, self._singles, self._factors)
        return sum(array.nbytes for array in arrays)

    def of(self, row: int, token: int) -> float:
        """Return m of one host token of a row, given by its place in the step."""
        found = self._found.get((row, token))
        if found is None:
            self.look_up([row], [token])
            found = self._found[row, token]
        return found

    def look_up(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Find m of one host token in each of some rows at once; `of` then has them at hand."""
        row, token = np.array(rows), np.array(tokens)
        # The logits may have more columns than the tokenizer has tokens.
        inside = token < len(self._first_expert)
        owner = self._first_expert[np.where(inside, token, 0)]
        among = (self._experts[row] == owner[:, None]) & (inside & (owner != NOTHING))[:, None]
        # The last column is the tail's.
        group = np.where(among.any(axis=1), among.argmax(axis=1), -1)
        factors = self._table[row, group]
        keys = row * _STRIDE + token
        at = np.searchsorted(self._singles, keys)
        at[at == len(self._singles)] = 0
        if len(self._singles):
            factors = np.where(self._singles[at] == keys, self._factors[at], factors)
        self._found.update(zip(zip(rows, tokens, strict=True), factors.tolist(), strict=True))
