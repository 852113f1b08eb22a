"""A key-value cache for transformers whose rows are gathered from places of a `PrefixTree`.

Texts share their prefixes: the tree records which tokens of which texts are cached, and where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

#: A place that no text owns: padding is read from and written to it.
NOWHERE = 0
#: Least share of the places that one eviction frees.
_FREED_SHARE = 16


class PrefixTree:
    """The places of tokens in a cache, as a tree: a place stands for a token and all before it.

    The keys and values of a token depend on the token and its whole prefix. Texts that begin alike
    therefore share places, a growing text needs places for its new tokens only, and a text that
    diverges from another (a draft, a cover, another sample) copies nothing.

    Parameters
    ----------
    capacity : int
        Number of places, including `NOWHERE`.
    """

    def __init__(self, capacity: int) -> None:
        self._child: dict[tuple[int, int], int] = {}
        self._free = list(range(capacity - 1, NOWHERE, -1))
        self._parent = np.zeros(capacity, dtype=np.int64)
        self._token = np.zeros(capacity, dtype=np.int64)
        self._depth = np.zeros(capacity, dtype=np.int64)
        #: When a place was last used; -1 while it is free.
        self._used = np.full(capacity, -1, dtype=np.int64)
        self._now = 0

    @property
    def free(self) -> int:
        """Number of free places."""
        return len(self._free)

    def begin_call(self) -> None:
        """Begin a call: places that it uses are not evicted until it ends."""
        self._now += 1

    def follow(self, places: list[int], text: Sequence[int]) -> None:
        """Extend `places`, those of a prefix of `text`, by those of its next cached tokens."""
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
        """Find places for `tokens` after the text at `places`, and append them to `places`.

        The text with the first of `tokens` must not be cached yet; see `follow`.

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
        """Free the least recently used places, ends of texts first."""
        old = np.flatnonzero((self._used >= 0) & (self._used < self._now))
        if len(old) < places:
            raise MemoryError(f"{places} more tokens than the cache has places for")
        # A token is used whenever one after it is, so this order never frees a prefix too early.
        order = old[np.lexsort((-self._depth[old], self._used[old]))]
        for place in order[: max(places, len(self._used) // _FREED_SHARE)].tolist():
            del self._child[int(self._parent[place]), int(self._token[place])]
            self._used[place] = -1
            self._free.append(place)


#: Name under which `attend` is registered with transformers.
ATTENTION = "floe_gathered"


@dataclass
class Wiring:
    """Where the layers write and read in one forward pass.

    Attributes
    ----------
    write : int64 tensor, shape (rows * queries,)
        Places of the new tokens, row by row.
    read : int64 tensor, shape (rows, length)
        Places that the queries of each row see, by position; `NOWHERE` pads short rows.
    """

    write: torch.Tensor
    read: torch.Tensor


class GatheredLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, by place.

    All new states are written before any is read, so a row may see states of other rows of the
    same forward pass.

    Parameters
    ----------
    capacity : int
        Number of places.
    """

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self.wiring: Wiring | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the places; memory is committed when they are first written."""
        shape = [
            (self._capacity, each.shape[1], each.shape[3]) for each in (key_states, value_states)
        ]
        device = key_states.device
        self.keys = torch.empty(shape[0], dtype=key_states.dtype, device=device)
        self.values = torch.empty(shape[1], dtype=value_states.dtype, device=device)
        # Padded rows read this place and mask it, so it must be finite.
        self.keys[0].zero_()
        self.values[0].zero_()
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states, shape (rows, heads, queries, width); return those of each row."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.wiring is not None
        return (
            _exchange(self.keys, key_states, self.wiring),
            _exchange(self.values, value_states, self.wiring),
        )

    def get_seq_length(self) -> int:
        """Return 0: the model is given positions; the cache does not count them."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset for a mask; the model is given its mask."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Return the number of places."""
        return self._capacity


def _exchange(stored: torch.Tensor, states: torch.Tensor, wiring: Wiring) -> torch.Tensor:
    rows, heads, queries, width = states.shape
    new = states.transpose(1, 2).reshape(rows * queries, heads, width)
    stored.index_copy_(0, wiring.write, new)
    seen = stored.index_select(0, wiring.read.reshape(-1))
    return seen.view(*wiring.read.shape, heads, width).transpose(1, 2)


class GatheredCache(Cache):  # type: ignore[misc]
    """The layers of one model, with the same wiring in each forward pass."""

    def __init__(self, *, layers: int, capacity: int) -> None:
        self._gathered = [GatheredLayer(capacity) for _ in range(layers)]
        super().__init__(layers=list(self._gathered))

    def wire(self, wiring: Wiring) -> None:
        """Set where the next forward pass writes and reads."""
        for layer in self._gathered:
            layer.wiring = wiring


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with grouped queries, without repeating keys and values for each query head.

    The query heads of a key head become queries of that head: the same sums, with a third (or an
    eighth) of the memory traffic.

    Parameters
    ----------
    query : tensor, shape (rows, query heads, queries, width)
    key, value : tensors, shape (rows, key heads, length, width)
    attention_mask : tensor, shape (rows, 1, queries, length)
        Added to the scores.

    Returns
    -------
    tuple of (tensor of shape (rows, queries, query heads, width), None)
    """
    del module, kwargs
    rows, heads, queries, width = query.shape
    groups = heads // key.shape[1]
    folded = query.reshape(rows, key.shape[1], groups * queries, width)
    mask = attention_mask.repeat(1, 1, groups, 1) if queries > 1 else attention_mask
    out = torch.nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=mask, scale=scaling
    )
    out = out.reshape(rows, heads, queries, value.shape[-1])
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)
