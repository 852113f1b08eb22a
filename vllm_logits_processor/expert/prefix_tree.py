"""Which tokens of which texts are in the key-value cache, and where: texts share their prefixes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: A place that no text owns: reads and writes that count for nothing go there.
NOWHERE = 0
#: The least share of the places that making room frees at once.
_FREED_SHARE = 16


class PrefixTree:
    """Places of tokens in a cache, as a tree: a place stands for a token after all before it.

    The keys and values of a token follow from the token and everything in front of it. So texts
    that begin alike share the places of what they have in common, a text that grows needs places
    for its new tokens only, and one that departs from another (a draft, a cover, another sample)
    copies nothing.

    Parameters
    ----------
    capacity : int
        Number of places, `NOWHERE` among them.
    """

    def __init__(self, capacity: int) -> None:
        self._child: dict[tuple[int, int], int] = {}
        self._free = list(range(capacity - 1, NOWHERE, -1))
        self._parent = np.zeros(capacity, dtype=np.int64)
        self._token = np.zeros(capacity, dtype=np.int64)
        self._depth = np.zeros(capacity, dtype=np.int64)
        #: When a place was last of use; -1 while it is free.
        self._used = np.full(capacity, -1, dtype=np.int64)
        self._now = 0

    @property
    def free(self) -> int:
        """How many places are not in use."""
        return len(self._free)

    def begin_call(self) -> None:
        """Begin another call: what it uses from here on stays until it has ended."""
        self._now += 1

    def follow(self, places: list[int], text: Sequence[int]) -> None:
        """Append to `places`, those of a beginning of `text`, what else of it is in the cache."""
        begin = len(places)
        place = places[-1] if places else NOWHERE
        for token in text[begin:]:
            child = self._child.get((place, token))
            if child is None:
                break
            places.append(child)
            place = child
        self._used[places[begin:]] = self._now

    def extend(self, places: list[int], tokens: Sequence[int]) -> None:
        """Find places for `tokens` behind the text at `places`, and append them to it.

        The text with the first of `tokens` must not be in the cache yet: see `follow`.

        Raises
        ------
        MemoryError
            If the texts of this call alone fill the cache.
        """
        if len(tokens) > len(self._free):
            self._make_room(len(tokens) - len(self._free))
        for token in tokens:
            parent = places[-1] if places else NOWHERE
            place = self._free.pop()
            self._child[parent, token] = place
            self._parent[place], self._token[place] = parent, token
            self._depth[place], self._used[place] = len(places), self._now
            places.append(place)

    def forget_all(self) -> None:
        """Drop every text."""
        self._child.clear()
        self._used[:] = -1
        self._free = list(range(len(self._used) - 1, NOWHERE, -1))

    def _make_room(self, places: int) -> None:
        """Free the places that have been of no use for longest, ends of texts first."""
        old = np.flatnonzero((self._used >= 0) & (self._used < self._now))
        if len(old) < places:
            raise MemoryError(f"{places} more tokens than the cache has places for")
        # A token is used whenever one behind it is: in this order none loses what is before it.
        order = old[np.lexsort((-self._depth[old], self._used[old]))]
        for place in order[: max(places, len(self._used) // _FREED_SHARE)].tolist():
            del self._child[int(self._parent[place]), int(self._token[place])]
            self._used[place] = -1
            self._free.append(place)
