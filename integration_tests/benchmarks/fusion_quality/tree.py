"""Token sequences that share their beginnings, run through a model in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class TokenTree:
    """A trunk, the tokens of a whole document, and branches that leave it.

    A node stands for the sequence that ends in it: the model's output there is the distribution
    after that sequence.

    Parameters
    ----------
    trunk : sequence of int
        At least one token.
    """

    def __init__(self, trunk: Sequence[int]) -> None:
        self._trunk = list(trunk)
        self.tokens: list[int] = list(trunk)
        self.parents: list[int] = list(range(-1, len(trunk) - 1))
        self._children: dict[tuple[int, int], int] = {}

    def node_of(self, sequence: Sequence[int]) -> int:
        """Return the node of a sequence of at least one token, made if it is not there yet."""
        common = self._shared_with_trunk(sequence)
        if common == 0:
            raise ValueError(
                f"The sequence begins with token {sequence[:1]}, the trunk with {self._trunk[0]}."
            )
        node = common - 1
        for token in sequence[common:]:
            child = self._children.get((node, token))
            if child is None:
                child = self._children[node, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
            node = child
        return node

    def depths(self) -> npt.NDArray[np.int64]:
        """Return the place of each node in its own sequence, from 0; shape (nodes,)."""
        depths = np.arange(len(self.tokens))
        for node in range(len(self._trunk), len(self.tokens)):
            depths[node] = depths[self.parents[node]] + 1
        return depths

    def sight(self, *, first: int = 0, window: int | None = None) -> npt.NDArray[np.bool_]:
        """Return which node sees which: its ancestors and itself; shape (nodes - first, nodes).

        Parameters
        ----------
        first : int, optional
            The first node whose sight is wanted.
        window : int, optional
            See only ancestors less than this many tokens back (sliding-window attention).
        """
        nodes, trunk = len(self.tokens), len(self._trunk)
        seen = np.zeros((nodes - first, nodes), dtype=bool)
        for node in range(first, nodes):
            row = seen[node - first]
            row[node] = True
            above = self.parents[node]
            while above >= trunk:
                row[above] = True
                above = self.parents[above]
            # Of the trunk a node sees all up to where its branch leaves it.
            row[: above + 1] = True
        if window is not None:
            depths = self.depths()
            seen &= depths[first:, None] - depths[None, :] < window
        return seen

    def _shared_with_trunk(self, sequence: Sequence[int]) -> int:
        low, high = 0, min(len(sequence), len(self._trunk))
        while low < high:
            middle = (low + high + 1) // 2
            # What is shared up to `low` need not be compared again.
            if list(sequence[low:middle]) == self._trunk[low:middle]:
                low = middle
            else:
                high = middle - 1
        return low
