"""A small cache for what is looked up many times in a step."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps what was used of late, in two generations: cheaper than to note each use.

    When the younger one is full, it takes the place of the older one. Safe in several threads.

    Parameters
    ----------
    most : int
        Entries of a generation.
    """

    __slots__ = ("_most", "_old", "_young")

    def __init__(self, most: int) -> None:
        self._most = most
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """Return what is kept under `key`, or None."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Keep `value`, which is not None, under `key`."""
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[key] = value
